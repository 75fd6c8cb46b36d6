"""Cluster slots of keys."""

SLOTS: int

def key_slot(key: bytes) -> int:
    """The slot of a key: CRC-16/XMODEM of its first ``{tag}`` that is not empty, else of all of it."""
