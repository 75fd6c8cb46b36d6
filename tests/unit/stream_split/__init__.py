"""The stream splitter: raw commands in pieces, with their offsets, and what is left out of them."""
