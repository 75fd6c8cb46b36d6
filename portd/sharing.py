"""Answers that several ask for at once: what costs much is asked once for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Shared(Generic[T]):
    """Lets one look answer all who ask about the same time. One that fails is the business of the one who did it.

    Args:
        seconds: by which an answer may be older than the question. None, as a rule: then a look answers those who asked before it began.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._turn = asyncio.Lock()
        self._seconds = seconds
        self._answer: tuple[float, T] | None = (
            None  # when the newest look began, by the loop's clock, and what it found
        )

    async def ask(self, look: Callable[[], Awaitable[T]]) -> T:
        """What a look has found.

        Args:
            look: finds it; of all who wait, any one's is called.
        """
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._turn:
            if self._answer is None or self._answer[0] < asked - self._seconds:
                begun = loop.time()
                self._answer = begun, await look()
            return self._answer[1]
