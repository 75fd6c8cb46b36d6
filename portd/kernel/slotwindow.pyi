"""What one node of a cluster gets in one go, and what it does not get for now."""

from typing import NamedTuple, final

class Place(NamedTuple):
    """What a reply to a window is about.

    Attributes:
        slot: of the transaction.
        command: number of its command, from 0; -1 for what is ours: MULTI, the record.
        executes: it is the reply of EXEC.
    """

    slot: int
    command: int
    executes: bool

@final
class Window:
    """Commands for one node; made by `SlotGroups`."""

    @property
    def size(self) -> int:
        """Bytes of its commands."""
    @property
    def entries(self) -> int:
        """What it holds: commands, or parts of those that were cut by slot."""
    @property
    def commands(self) -> int:
        """Commands of the source that it counts for: one that was cut counts with its first part."""
    @property
    def kept(self) -> int:
        """Entries that `SlotGroups.again` has left in it."""
    @property
    def floor(self) -> int:
        """A position where a checkpoint may stand that nothing in it is before; of an empty one, nothing."""
    @property
    def offset(self) -> int:
        """Replication offset of the first byte of its first command."""
    @property
    def owed(self) -> dict[int, bytes]:
        """Of a rendered one: what its records say of keys that are owed, by slot."""
    @property
    def transactions(self) -> int:
        """Of a rendered one."""
    def slots(self) -> list[tuple[int, int]]:
        """Of a rendered one: its slots, and the position that each one's record says."""
    def place(self, reply: int) -> Place:
        """Of a rendered one: what a reply is about, by its number from 0."""
    def command(self, slot: int, number: int) -> tuple[bytes, int]:
        """A command of a slot, by number, and the replication offset of its first byte."""
    def copies(self, slot: int, number: int) -> bool:
        """Whether a command is none of the stream, but writes the copy of a key."""
    def leave_out(self, slot: int, numbers: list[int]) -> int:
        """Takes commands of a slot out, by number; how many commands of the source that makes."""
    @property
    def owned_bytes(self) -> int:
        """Bytes allocated."""

@final
class Gap:
    """What a node does not get for now, and is to be read again for it; made by `SlotGroups`."""

    @property
    def open(self) -> bool:
        """What comes for it is left behind."""
    @property
    def entries(self) -> int:
        """What was left behind: commands, or parts of those that were cut by slot. Some may be counted more than once."""
    @property
    def floor(self) -> int:
        """A position where a checkpoint may stand that nothing of that is before; where there is none, nothing."""
