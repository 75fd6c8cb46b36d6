"""A cluster as a target: its nodes, the snapshot by node, the stream by slot."""
