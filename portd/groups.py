"""Groups of tasks from which a cancellation always comes through."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

if sys.version_info >= (3, 13):
    TaskGroup = asyncio.TaskGroup
else:

    class TaskGroup(asyncio.TaskGroup):
        """`asyncio.TaskGroup`, which before Python 3.13 forgets a cancellation that arrives while it ends by an error.

        Whoever takes that error for a reason to try again would go on for good, and whoever cancelled it wait for good. The
        cancellation wins here: it has a reason of its own.
        """

        async def __aenter__(self) -> Self:
            self._cancels = _task().cancelling()
            await super().__aenter__()
            return self

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            asked = self._by_itself()
            try:
                await super().__aexit__(kind, error, trace)
            except BaseExceptionGroup as errors:
                if self._by_itself() and not asked:
                    _task().uncancel()  # of an error that came in here; one from before is taken back by the group
                if _task().cancelling() > self._cancels:
                    raise asyncio.CancelledError from errors
                raise

        def _by_itself(self) -> bool:
            """The group has cancelled the task that waits for it."""
            return bool(self._parent_cancel_requested)  # type: ignore[attr-defined]


def _task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None, "only tasks have groups"
    return task
