"""The room on disk that several spools have together.

Half of it belongs to whoever needs it first. The other half is kept in equal shares, so that a spool whose target is away
for long fills the disk for itself and not for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class DiskRoom:
    """Bytes of segment files, of all spools together.

    Args:
        max_bytes: the most of them.
        spools: that will share it.
    """

    def __init__(self, max_bytes: int, spools: int = 1) -> None:
        self.max_bytes = max_bytes
        self.kept_bytes = max_bytes // (2 * spools)  # for each
        self._spools = spools
        self._shares: list[Share] = []

    @property
    def used(self) -> int:
        """What all of them take."""
        return sum(share.used for share in self._shares)

    def join(self, on_room: Callable[[], None]) -> Share:
        """One more spool; *on_room* is called when others have given something back."""
        share = Share(self, on_room)
        self._shares.append(share)
        return share

    def leave(self, share: Share) -> None:
        """A spool is gone, with what it took; idempotent."""
        if share in self._shares:
            self._shares.remove(share)
            self.tell(share)

    def kept_beside(self, share: Share) -> int:
        """What *share* may not take: what the others have taken, or may take at any time."""
        others = [max(other.used, self.kept_bytes) for other in self._shares if other is not share]
        return sum(others) + self.kept_bytes * max(0, self._spools - 1 - len(others))

    def tell(self, giver: Share) -> None:
        """The others may try again."""
        for share in tuple(self._shares):
            if share is not giver:
                share.on_room()


class Share:
    """What one spool takes of a room.

    Attributes:
        used: bytes of its segment files.
        on_room: see `DiskRoom.join`.
    """

    def __init__(self, room: DiskRoom, on_room: Callable[[], None]) -> None:
        self.used = 0
        self.on_room = on_room
        self._room = room

    @property
    def kept_bytes(self) -> int:
        """What it may always take."""
        return self._room.kept_bytes

    @property
    def most_bytes(self) -> int:
        """What it may take in all, as the others are now."""
        return self._room.max_bytes - self._room.kept_beside(self)

    @property
    def left_bytes(self) -> int:
        """What it may take now."""
        return self.most_bytes - self.used

    def take(self, size: int) -> None:
        """Takes *size* bytes, as many as are left at the most."""
        self.used += size

    def give(self, size: int) -> None:
        """Gives *size* bytes back."""
        self.used -= size
        self._room.tell(self)

    def leave(self) -> None:
        """Gives everything back, for good; idempotent."""
        self.used = 0
        self._room.leave(self)
