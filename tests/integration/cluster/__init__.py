"""A cluster as a target, on real servers."""
