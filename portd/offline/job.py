"""What a command that ends by itself shows to `portd.cli.runner`: counters, a way to stop it, its memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from portd.memory.accounting import Accounting
from portd.model import Progress
from portd.watch.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from portd.config.settings import Settings
    from portd.memory.accounting import MemoryReport


CANCEL_SECONDS: Final = 0.5  # between two tries to cancel


class OfflineService:
    """Base of the commands that run on an event loop; they override `run`.

    Attributes:
        progress: counters, live.
    """

    def __init__(self) -> None:
        self.progress = Progress()
        self._stop = asyncio.Event()
        self._accounting = Accounting()

    async def run(self) -> None:
        """Does the work, or as much of it as there is until a stop is asked for."""
        raise NotImplementedError

    async def _unless_stopped(
        self, doing: Coroutine[Any, Any, None], name: str, keeps: Callable[[], bool] = lambda: False
    ) -> bool:
        """Whether some work was done to its end, and not cancelled by a stop.

        Args:
            doing: the work.
            name: of its task.
            keeps: asked at a stop: the work ends by itself.
        """
        work = asyncio.create_task(doing, name=name)
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not keeps():
                await self._end(work)
                return False
            await work
        finally:
            stop.cancel()
            work.cancel()
        return True

    async def _end(self, work: asyncio.Task[None]) -> None:
        """Cancels *work*, again should a library have swallowed that."""
        while not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=CANCEL_SECONDS)

    def request_stop(self) -> None:
        """Asks to end in order; returns at once."""
        self._stop.set()

    def memory(self) -> MemoryReport:
        """Where the memory is now."""
        return self._accounting.report()

    def views(self) -> Sequence[View]:
        """What it does, for those who watch."""
        return (View.of(self.progress),)

    def change(self, link: str, name: str, value: float) -> None:
        """Lets a setting take effect; those that know none that can override it."""

    def narrow(
        self,
        link: str,  # noqa: ARG002 - the same
        settings: Settings,  # noqa: ARG002 - as those have it that can
    ) -> list[Coroutine[Any, Any, Mapping[str, Any]]]:
        """Rules are those of the start here."""
        return []

    def reloads(self, read: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Takes what reads the settings again: nobody can ask for it here."""

    def settings_again(self) -> Sequence[str]:
        """Settings were read: there is nothing that operators had changed for the time until then."""
        return ()

    def alive(self) -> bool:
        """All parts run."""
        return True
