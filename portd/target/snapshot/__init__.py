"""A snapshot's way into the target: lanes of batches, in any order but a big key's."""
