"""One thread for disk calls, so that a slow disk never holds up the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

CLOSE_SECONDS = 1.0  # how long `close` waits for the job under way and the last one


class Worker:
    """Runs jobs one after the other in one thread, which starts with the first job.

    The caller bounds how many jobs are under way. Results come back in the event loop, in order.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)
        self._started = False
        self._closed = False

    def submit(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Runs *job* in the thread, then *done* in the running event loop with its result, or with what it raised.

        *done* runs in the context of the caller: what it logs is about the same link.
        """
        loop, context = asyncio.get_running_loop(), copy_context()

        def work() -> None:
            if self._closed:
                return
            result: T | Exception
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - handed to the caller, who knows what it means
                result = error
            if not loop.is_closed():  # closed: the process is ending, nobody waits for this
                loop.call_soon_threadsafe(done, result, context=context)

        self._started = True
        self._executor.submit(work)

    def close(self, last_job: Callable[[], None]) -> None:
        """Drops jobs that have not begun, then runs *last_job*; returns before it has run when the disk hangs."""
        self._closed = True
        if not self._started:
            last_job()
            return
        last = self._executor.submit(last_job)
        self._executor.shutdown(wait=False)
        concurrent.futures.wait([last], CLOSE_SECONDS)
