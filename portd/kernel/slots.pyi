"""Cluster slots of keys."""

SLOTS: int

def key_slot(key: bytes) -> int:
    """The slot of a key: CRC-16/XMODEM of its first ``{tag}`` that is not empty, else of all of it."""

def slot_tag(slot: int) -> str:
    """Digits that have this slot: what stands in the braces of a name that is to lie there. At most six.

    Raises:
        ValueError: there is no such slot.
    """
