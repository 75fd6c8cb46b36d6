"""Waiting for an offset: across lost connections and new sessions, for as long as they follow one history."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


class Reaching:
    """Who waits for what the target has, whichever session brings it there."""

    def __init__(self) -> None:
        self._reach: Callable[[int], Coroutine[None, None, None]] | None = None  # of what follows the stream now
        self._changed = asyncio.Event()  # set, and another one, when that changes
        self._histories = 0

    @contextmanager
    def following(self, reach: Callable[[int], Coroutine[None, None, None]]) -> Iterator[None]:
        """The stream is followed inside of it; *reach* waits for an offset of it."""
        self._change(reach)
        try:
            yield
        finally:
            self._change(None)

    def forget(self) -> None:
        """Another history begins, or the same anew: offsets that are waited for mean nothing any more."""
        self._histories += 1
        self._change(None)

    async def reach(self, offset: int) -> bool:
        """Waits until the target has everything up to *offset* of the history that is followed; False when that has ended."""
        history = self._histories
        while history == self._histories:
            changed, reach = self._changed, self._reach
            if reach is None:
                await changed.wait()
                continue
            reached = asyncio.create_task(reach(offset), name="an operator's offset")
            another = asyncio.create_task(changed.wait(), name="another session")
            try:
                await asyncio.wait({reached, another}, return_when=asyncio.FIRST_COMPLETED)
                if reached.done():
                    reached.result()
                    return True
            finally:
                reached.cancel()
                another.cancel()
        return False

    def _change(self, reach: Callable[[int], Coroutine[None, None, None]] | None) -> None:
        changed, self._changed, self._reach = self._changed, asyncio.Event(), reach
        changed.set()
