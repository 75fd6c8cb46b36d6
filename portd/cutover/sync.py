"""The running sync, as a cut-over speaks to it: through its control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from portd.controlsocket import ask
from portd.cutover.doubt import Doubt, NotAllowed, SyncAway
from portd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SLACK_SECONDS: Final = 5.0  # for an answer, behind what was asked for


class Sync:
    """One link of a process that runs.

    Args:
        path: of its control socket.
        link: its name.
    """

    def __init__(self, path: Path, link: str) -> None:
        self._path = path
        self._link = link

    async def status(self) -> dict[str, Any]:
        """All that is known of the link, as ``/status`` has it, without settings.

        Raises:
            SyncAway: it is not there.
            NotAllowed: we may not ask.
            Doubt: it refuses.
        """
        answer = await self._ask("status", {}, SLACK_SECONDS)
        process: dict[str, Any] = answer["process"]
        return process

    async def drain(self, offset: int, seconds: float) -> int:
        """Waits until the target has everything up to an offset; the one that is applied then.

        Raises:
            Doubt: it has not, in that time.
        """
        answer = await self._ask("drain", {"offset": offset, "timeout": seconds}, seconds + SLACK_SECONDS)
        return int(answer["applied"])

    async def hand_over(self, seconds: float) -> Mapping[str, Any]:
        """Ends the link in order: all is applied, expiry times are set back, import mode is off, the lease is free.

        Raises:
            Doubt: it is not certain that it did.
        """
        return await self._ask("handover", {}, seconds)

    async def _ask(self, command: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            answer = await ask(self._path, command, {"link": self._link, **arguments}, seconds=seconds)
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
        if len(links) > 1:
            raise ConfigError(
                f"{self._link} stands for several links, those of a cluster's shards",
                hint="a cut-over is for one link; see its guide",
            )
        if not answer["ok"] or not links:
            raise Doubt(f"the sync refuses {command}: {answer.get('error', 'no answer')}", hint=answer.get("hint"))
        found: dict[str, Any] = links[0]
        return found
