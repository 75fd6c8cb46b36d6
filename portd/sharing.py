"""Answers that several ask for at once: what costs much is asked once for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Shared(Generic[T]):
    """Lets one look answer all who wanted it before it began: nobody gets an answer that is older than the question.

    A look that fails is the business of the one who did it; another one who waits looks anew.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._begun = 0  # looks
        self._answer: tuple[int, T] | None = None  # of the newest that has ended: its number, and what it found

    async def ask(self, look: Callable[[], Awaitable[T]]) -> T:
        """What a look finds that begins from now on.

        Args:
            look: finds it; of all who wait, any one's is called.
        """
        wanted = self._begun + 1
        async with self._turn:
            if self._answer is None or self._answer[0] < wanted:
                self._begun += 1
                number = self._begun
                self._answer = number, await look()
            return self._answer[1]
