"""Where the stream of a cluster's shard stops: at slots that are not its link's alone. ``border.pyx`` says why."""

from collections.abc import Iterable
from typing import Final, Self, final

ALL: Final[int]
"""`Border.slot` of a command that concerns all slots."""

@final
class Border:
    """What a splitter stops at; one object for all that read the same stream one after the other."""

    def __new__(cls) -> Self: ...
    def open(self, until: int, shared: dict[int, int], awaited: Iterable[int] = ...) -> None:
        """Lets the stream go on.

        Args:
            until: offset up to which commands of slots that the link does not have are left out, and those that bring keys
                of shared ones pass. What begins behind it stops the splitter.
            shared: slots that the link has, and others too; for each, the offset up to which its commands pass.
            awaited: slots that are to come to the link: their commands stop the splitter, behind what was left out before.
        """
    def reset(self) -> None:
        """Another history begins: nothing is known of its offsets."""
    def enter(self, slots: Iterable[int]) -> None:
        """Slots come to the link: while they are shared, what was left out of them before stays so."""
    def leave(self, slots: Iterable[int]) -> None:
        """Slots are the link's no more behind the command that is looked at, and are to come again."""
    def limit(self, slot: int) -> int:
        """Offset up to which commands of a shared slot pass; -1: none is known."""
    def go_on(self, *, heard: bool = False) -> None:
        """Has the command that stops the splitter looked at again.

        Args:
            heard: it passes where it `begins` or `ends`, whatever is shared.
        """
    def share(self, slots: dict[int, int]) -> None:
        """Others have these slots as well by now.

        Args:
            slots: the offset up to which commands of each pass, where none is known yet. What brings keys stops the splitter anyway.
        """
    @property
    def until(self) -> int:
        """Offset up to which commands of slots that the link does not have are left out; -1: none is."""
    @property
    def emptied(self) -> int:
        """Offset of the first byte of the last command that emptied slots, and did not wait; -1: there was none."""
    @property
    def at(self) -> int:
        """Offset of the first byte of the command that was looked at last."""
    @property
    def brings(self) -> bool:
        """It is one by which a key comes from another node."""
    @property
    def begins(self) -> bool:
        """It says that slots begin to come in one step."""
    @property
    def ends(self) -> bool:
        """It says that the node has no key of slots any more."""
    @property
    def named(self) -> frozenset[int]:
        """Those that the last such word named."""
    @property
    def began(self) -> dict[int, int]:
        """Slots that came to the node in one step, or begin to, as far as its stream told since it is read: offset of the word."""
    @property
    def over(self) -> dict[int, int]:
        """Slots of the link of which its node has no key any more, in the same way."""
    @property
    def waits(self) -> bool:
        """That command stops the splitter: ``next_piece`` has nothing until `open`."""
    @property
    def slot(self) -> int:
        """The slot for which it does; `ALL` for a command that empties all of them, or a shared one."""
