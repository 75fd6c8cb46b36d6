"""Settings: what there is, and where it is read from."""
