"""The stream's way into the target: groups of commands with the position they reach."""
