"""Where the stream of a cluster's shard waits until it is known whose a slot is; `portd.kernel.border` says what it stops at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portd.kernel.border import Border

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class SlotBorder:
    """Between the feed of a link, which stops, and whoever asks the source's nodes, and lets it go on.

    Attributes:
        kernel: what the splitter asks.
        wanted: set when the feed waits.
        blurred: what the stream tells of slots that come is not all: the snapshot had keys of them, or they were given up.
        generation: another one after each `reset`: what was found out before means nothing any more.
        shared_now: tells the slots of the link that others have, or may have, as well.
    """

    def __init__(self) -> None:
        self.kernel = Border()
        self.wanted = asyncio.Event()
        self.blurred = False
        self.generation = 0
        self.shared_now: Callable[[], Iterable[int]] = tuple
        self._changed = asyncio.Event()

    @property
    def slot(self) -> int:
        """For which slot it waits; `portd.kernel.border.ALL` for all of them."""
        return self.kernel.slot

    @property
    def brings(self) -> bool:
        """What it waits before is a key that comes from another node."""
        return self.kernel.waits and self.kernel.brings

    @property
    def begins(self) -> bool:
        """What it waits before says that slots begin to come in one step."""
        return self.kernel.waits and self.kernel.begins

    @property
    def ends(self) -> bool:
        """What it waits before says that the node has no key of slots any more."""
        return self.kernel.waits and self.kernel.ends

    @property
    def named(self) -> frozenset[int]:
        """See `Border.named`."""
        return self.kernel.named

    @property
    def began(self) -> dict[int, int]:
        """See `Border.began`."""
        return self.kernel.began

    @property
    def over(self) -> dict[int, int]:
        """See `Border.over`."""
        return self.kernel.over

    @property
    def at(self) -> int:
        """Offset of the command that it waits before."""
        return self.kernel.at

    @property
    def waits(self) -> bool:
        """The feed does."""
        return self.kernel.waits

    def reset(self, *, blurred: bool = False) -> None:
        """A history begins, or is followed from a checkpoint on: what was said of offsets means nothing any more."""
        self.generation += 1
        self.kernel.reset()
        self.share(self.shared_now())
        self.blurred = blurred
        self.wanted.clear()
        self._changed.set()

    def open(self, until: int, shared: Mapping[int, int], awaited: Iterable[int]) -> None:
        """Lets the feed go on; see `Border.open`."""
        self.kernel.open(until, dict(shared), awaited)
        self.wanted.clear()
        self._changed.set()

    def go_on(self, *, heard: bool = False) -> None:
        """Lets the feed look again at what it waits before; see `Border.go_on`."""
        self.kernel.go_on(heard=heard)
        self.wanted.clear()
        self._changed.set()

    @property
    def emptied(self) -> int:
        """See `Border.emptied`."""
        return self.kernel.emptied

    def limit(self, slot: int) -> int:
        """Offset up to which commands of a shared slot pass; -1: none is known."""
        return self.kernel.limit(slot)

    def enter(self, slots: Iterable[int]) -> None:
        """Slots come to the link; see `Border.enter`."""
        self.kernel.enter(slots)

    def leave(self, slots: Iterable[int]) -> None:
        """Slots have left the link, and come again; see `Border.leave`."""
        self.kernel.leave(slots)

    def share(self, slots: Iterable[int]) -> None:
        """These are other links' as well by now; see `Border.share`. Those of which nothing is known yet stop the feed."""
        self.kernel.share(dict.fromkeys(slots, -1))

    async def passed(self) -> None:
        """Waits until the feed may go on."""
        while self.kernel.waits:
            self._changed.clear()
            self.wanted.set()
            await self._changed.wait()
