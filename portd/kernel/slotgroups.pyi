"""Sorts the commands of a stream by slot, for a cluster: what one window of a node holds, and how far each slot is."""

from typing import Final, NamedTuple, final

from portd.kernel.keyspecs import KeySpecs
from portd.kernel.slotwindow import Gap, Window

NO_RECORD: Final = -1

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
    def take(
        self,
        data: bytes,
        offsets: bytes,
        end_offset: int,
        floor: int,
        first: int = 0,
        owing: tuple[tuple[int, tuple[int, bytes], int], ...] = (),
        copies: bool = False,
    ) -> int:
        """Takes commands of a piece from number *first* on.

        Args:
            data: whole commands, as in `portd.kernel.stream.Piece`.
            offsets: likewise.
            end_offset: likewise.
            floor: the last position before it where a checkpoint may stand.
            first: number of the first command that is wanted.
            owing: keys that are owed from commands on that were left out, as `portd.kernel.stream.Piece` tells them: each one's slot gets a
                record that tells it, in its place among the commands.
            copies: they write copies of keys, and do not count as commands of the source.

        Returns:
            The number of a command that concerns all nodes, where it stopped, or of all commands.

        Messages whose channels have a slot without a node go to any node; those of SPUBLISH are left out.

        Raises:
            InternalError: the slot of a key has no node, or the data is no commands.
        """
    def note(self, slot: int, offset: int, behind: int, floor: int) -> None:
        """A slot's record is to be written anew, for what it owes has changed.

        Args:
            slot: it.
            offset: of the first byte of what has changed it.
            behind: position that the record is to say; that which it has, where that is further.
            floor: as of `take`.
        """
    def takes(self, slot: int) -> bool:
        """Whether a slot has a node, and what comes for that is not left behind."""
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
    def render(self, window: Window, writer: bytes, owed: dict[int, bytes] = ...) -> tuple[bytes, int]:
        """The transactions of a window, one for each of its slots, and how many replies they bring.

        Args:
            window: not empty.
            writer: what stands in the records before the position.
            owed: what stands behind it, by slot: keys that are owed.
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
    def highest(self) -> int:
        """The highest of all records and of what is known."""
    @property
    def lowest(self) -> int:
        """The lowest of all records."""
    @property
    def owned_bytes(self) -> int:
        """Bytes allocated, windows that were taken away left out."""

def record_keys(prefix: bytes, first: int, last: int) -> list[bytes]:
    """The keys of the records of a range of slots."""
