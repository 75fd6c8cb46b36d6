"""One link, from one source history into one target: session after session, and who has the last word on data."""
