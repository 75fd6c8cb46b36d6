"""`TaskGroup`, as Python 3.13 has it: a cancellation that comes while a group ends is not lost."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

FAITHFUL = sys.version_info >= (3, 13)  # asyncio's own keeps what is told below


class TaskGroup(asyncio.TaskGroup):
    """Python's, without two faults that end what should go on, and keep alive what should end.

    Before 3.13 a group that is ending, since something in it failed, swallows a cancellation from outside: whoever catches the
    failure and tries again never ends, and the group around it waits for ever. And a task that fails while the
    group waits for its last ones leaves its owner's count of cancellations one too high: the next timeout there ends the owner.
    """

    async def __aenter__(self) -> Self:
        self._asked = (
            _cancelling()
        )  # before us; who caught one and goes on, as `finally` does, is not to be ended by us
        await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if FAITHFUL:
            return await super().__aexit__(kind, error, trace)
        known = self._cancelled_by_itself
        try:
            await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            self._forget_own(known=known)
            if _cancelling() > self._asked:
                raise asyncio.CancelledError from None
            raise
        except BaseException:
            self._forget_own(known=known)
            raise

    @property
    def _cancelled_by_itself(self) -> bool:
        """The group has cancelled its owner, to be heard."""
        return bool(getattr(self, "_parent_cancel_requested"))  # noqa: B009 - nothing public tells

    def _forget_own(self, *, known: bool) -> None:
        """Takes back a cancellation of ours that asyncio forgets: one that came when the group was ending."""
        task = asyncio.current_task()
        if task is not None and self._cancelled_by_itself and not known:
            task.uncancel()


def _cancelling() -> int:
    """How often the current task was cancelled, less what was taken back."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
