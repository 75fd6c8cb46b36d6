"""Sorts the commands of a stream by slot, for a cluster: what one window of a node holds, and how far each slot is."""

from typing import Final, NamedTuple, final

from portd.kernel.keyspecs import KeySpecs

NO_RECORD: Final = -1

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

class Left(NamedTuple):
    """A command that has no place in a cluster.

    Attributes:
        offset: replication offset of its first byte.
        name: as it came.
        key: its first argument.
        several: its keys are in several slots; else nobody knows them.
    """

    offset: int
    name: bytes
    key: bytes
    several: bool

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
    def transactions(self) -> int:
        """Of a rendered one."""
    def slots(self) -> list[tuple[int, int]]:
        """Of a rendered one: its slots, and the position that each one's record says."""
    def place(self, reply: int) -> Place:
        """Of a rendered one: what a reply is about, by its number from 0."""
    def command(self, slot: int, number: int) -> tuple[bytes, int]:
        """A command of a slot, by number, and the replication offset of its first byte."""
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

@final
class SlotGroups:
    """Knows how far each slot is, and which node has it.

    Args:
        prefix: of the records' keys; behind it stands the tag, in braces.
        keys: where the keys of commands stand; None: only what is known of all servers.
    """

    def __init__(self, prefix: bytes, keys: KeySpecs | None = None) -> None: ...
    def route(self, table: bytes, nodes: int) -> list[Window]:
        """Sorts from now on by another table; returns the new windows, which are empty."""
    @property
    def growing(self) -> list[Window]:
        """The windows that take commands, by number of the node."""
    def renew(self, node: int) -> Window:
        """Takes a node's window away; an empty one grows from now on."""
    @property
    def gaps(self) -> list[Gap]:
        """What nodes do not get for now, by number of the node."""
    def leave(self, node: int, floor: int = ...) -> None:
        """Leaves behind what comes for a node from now on, and what is behind *floor*; its window stays as it is."""
    def resume(self, node: int) -> None:
        """Gives a node what comes from now on; its window is empty, and nothing is left behind."""
    def again(self, window: Window, leave: bool = False) -> int:
        """Sorts what is in a window that was taken away anew, as far as the records do not have it.

        What is sorted, or known to be there, is in the window no more, and `Window.commands` does not count it.

        Args:
            window: likewise.
            leave: what is for nodes with a gap stays in the window: nobody knows whether they have it; else it goes to theirs.

        Returns:
            Commands of the source that this makes.
        """
    def take(self, data: bytes, offsets: bytes, end_offset: int, floor: int, first: int = 0) -> int:
        """Takes commands of a piece from number *first* on.

        Args:
            data: whole commands, as in `portd.kernel.stream.Piece`.
            offsets: likewise.
            end_offset: likewise.
            floor: the last position before it where a checkpoint may stand.
            first: number of the first command that is wanted.

        Returns:
            The number of a command that concerns all nodes, where it stopped, or of all commands.

        Messages whose channels have a slot without a node go to any node; those of SPUBLISH are left out.

        Raises:
            InternalError: the slot of a key has no node, or the data is no commands.
        """
    def take_left(self) -> list[Left]:
        """Commands that have no place, since the last call; bounded, the rest is counted in ``left``."""
    def command(self, data: bytes, number: int) -> bytes:
        """One command of a piece."""
    known: int
    """Everything up to there came by before: it is not counted again."""
    left: int
    """Commands that had no place."""
    skipped: int
    """Commands that the records had already when they came by first, and SELECT."""
    cut: int
    """Commands that were cut by slot."""
    def render(self, window: Window, writer: bytes) -> tuple[bytes, int]:
        """The transactions of a window, one for each of its slots, and how many replies they bring.

        Args:
            window: not empty.
            writer: what stands in the records before the position.
        """
    def confirm(self, window: Window) -> None:
        """All of a rendered window is in the target."""
    def record(self, slot: int) -> int:
        """How far a slot is; `NO_RECORD` when nothing is known."""
    def set_record(self, slot: int, position: int) -> None:
        """Notes how far a slot is."""
    def set_records(self, position: int) -> None:
        """All slots are at least there."""
    @property
    def lowest(self) -> int:
        """The lowest of all records."""
    @property
    def owned_bytes(self) -> int:
        """Bytes allocated, windows that were taken away left out."""

def record_keys(prefix: bytes, first: int, last: int) -> list[bytes]:
    """The keys of the records of a range of slots."""
