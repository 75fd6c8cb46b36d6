"""The running sync, as a cut-over speaks to it: through its control socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from portd.controlsocket import ask
from portd.cutover.doubt import Doubt, NotAllowed, SyncAway

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SLACK_SECONDS: Final = 5.0  # for an answer, behind what was asked for
ASKED_AT_ONCE: Final = 6  # fewer than a process lets ask it at a time


class Sync:
    """The links of a process that runs: one, or those of the shards of a cluster.

    Args:
        path: of its control socket.
        link: its name; of a cluster as the operator has described it.
    """

    def __init__(self, path: Path, link: str) -> None:
        self._path = path
        self._link = link
        self._names: set[str] = set()  # of its links
        self._limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """All that is known of each link by its name, as ``/status`` has it, without settings.

        Raises:
            SyncAway: it is not there.
            NotAllowed: we may not ask.
            Doubt: it refuses, or has other links than when it was asked first.
        """
        answers = self._known(await self._ask("status", self._link, {}, SLACK_SECONDS))
        return {name: answer["process"] for name, answer in answers.items()}

    async def drain(self, link: str, offset: int, seconds: float) -> int:
        """Waits until the target has everything of a link up to an offset; the one that is applied then.

        Raises:
            Doubt: it has not, in that time.
        """
        answers = await self._ask("drain", link, {"offset": offset, "timeout": seconds}, seconds + SLACK_SECONDS)
        return int(answers[link]["applied"])

    async def hand_over(self, seconds: float) -> dict[str, Mapping[str, Any]]:
        """Ends all links in order: all is applied, expiry times are set back, import mode is off, the leases are free.

        Raises:
            Doubt: it is not certain that it did.
        """
        return {**self._known(await self._ask("handover", self._link, {}, seconds))}

    def _known(self, answers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Raises: Doubt: they are of other links."""
        if self._names and answers.keys() != self._names:
            raise Doubt("the sync has other links than before", hint="it was started again: run it again")
        self._names = {*answers}
        return answers

    async def _ask(
        self, command: str, link: str, arguments: Mapping[str, Any], seconds: float
    ) -> dict[str, dict[str, Any]]:
        """What it answers for each link of that name, by name."""
        try:
            async with self._limit:
                answer = await ask(self._path, command, {"link": link, **arguments}, seconds=seconds)
        except PermissionError:
            raise NotAllowed(
                f"{self._path} may not be opened", hint="run it as the user that runs the sync, or as root"
            ) from None
        except TimeoutError:
            raise Doubt(f"the sync does not answer to {command} within {seconds:.0f} s", hint="see its log") from None
        except OSError as error:
            raise SyncAway(
                f"no sync answers at {self._path}: {error.strerror or error}",
                hint="give its control_socket with --control-socket; a sync that has none was started without",
            ) from None
        links = answer.get("links") or []
        if not answer["ok"] or not links:
            raise Doubt(f"the sync refuses {command}: {answer.get('error', 'no answer')}", hint=answer.get("hint"))
        return {each["link"]: each for each in links}
