"""Import mode: a Valkey target (8.1 and later) that expires nothing by its own clock while portd brings the data.

A key whose time ends before the stream has caught up would die there although the source renewed it meanwhile. In
import mode the target keeps such keys for the connections that said ``CLIENT IMPORT-SOURCE ON``, shows them to nobody
else, and waits for the source's own DEL (server.c:serverCron, db.c:keyIsExpired). It does not evict meanwhile either.

The mode is one flag of the server, and several links may need it. So each of them has a field in a hash, ``<prefix>:imports``
with the prefix of checkpoints: until when it counts, by the target's clock, and which process of the target that was
said to. Who ends switches the mode off unless another one counts. Whoever switches it off all the same (an operator, a
restart, a user who came between the look and the switch) is noticed within a second, and it is put back. The hash holds
nothing but times that pass, so a write of it that comes late does no harm. For clusters see `portd.target.cluster.importing`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import Refused, parse_info, parse_pairs
from portd.net.resp import request
from portd.target.control import control
from portd.target.kept.checkpoint import IMPORTS_SUFFIX

if TYPE_CHECKING:
    from portd.model import Progress
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities

_log = get_logger("target")

SETTING: Final = "import-mode"
LOOK_SECONDS: Final = 1.0  # between two looks at the mode
USER_SECONDS: Final = 15.0  # a link counts for so long after its last look, as a lease does


def has_import_mode(capabilities: Capabilities) -> bool:
    """Whether a target has it."""
    return capabilities.family == "valkey" and capabilities.version >= (8, 1)


class Users:
    """The list of links that need the mode.

    Args:
        prefix: of checkpoint keys.
        link: the name of ours.
    """

    def __init__(self, prefix: str, link: str) -> None:
        self.key = prefix + IMPORTS_SUFFIX
        self._link = link

    async def sign(self, client: Control) -> None:
        """Says that we need the mode. A target that refuses for now (OOM, say) is told again at the next look.

        Raises:
            OSError: the connection is lost.
        """
        (told,) = await client.ask(request("INFO", "server"))
        now, process = _now(told)
        until = f"{now + int(USER_SECONDS * 1000)} {process}"
        await client.ask(
            request("HSET", self.key, self._link, until), request("PEXPIRE", self.key, int(USER_SECONDS * 1000))
        )

    async def leave(self, client: Control) -> list[str]:
        """Says that we do not; the links that do. Raises as `sign` does."""
        _, told, users = await client.ask(
            request("HDEL", self.key, self._link), request("INFO", "server"), request("HGETALL", self.key)
        )
        others = _alive(told, users)
        if others:
            _log.info(
                "target stays in import mode", links=" ".join(others),
                hint="the last of them to end switches it off; CONFIG SET import-mode no does, should it have been killed",
            )  # fmt: skip
        return others


async def look(client: Control) -> bool:
    """Puts the mode of one server on when it is off; False when it was seen to be.

    Raises:
        OSError: the connection is lost.
    """
    (mode,) = await client.ask(request("CONFIG", "GET", SETTING))
    known = parse_pairs(mode).get(SETTING) if isinstance(mode, list) else None
    if known != "yes":  # also where we may not ask
        await client.ask(request("CONFIG", "SET", SETTING, "yes"))
    return known != "no"


def note_loss(progress: Progress, **where: str) -> None:
    """Somebody switched the mode off."""
    progress.import_mode_losses += 1
    _log.warning(
        "import mode was lost", losses=progress.import_mode_losses,
        hint="it is put back; keys that the source renewed at the last moment may have expired meanwhile", **where,
    )  # fmt: skip


class ImportMode:
    """The mode for one link. Use: `enter`, then `keep` as a task, `leave` at the end.

    Args:
        endpoint: the target.
        prefix: of checkpoint keys.
        link: its name.
        progress: `import_mode_losses` is counted.
    """

    def __init__(self, endpoint: Endpoint, prefix: str, link: str, progress: Progress) -> None:
        self._endpoint = endpoint
        self._users = Users(prefix, link)
        self._progress = progress

    async def enter(self, capabilities: Capabilities) -> bool:
        """Turns import mode on where the target has it and we may.

        Returns:
            Data connections are to say that they import, and `keep` is to run.

        Raises:
            TargetLost: the target cannot be reached.
        """
        if not has_import_mode(capabilities):
            return False
        async with control(self._endpoint, "turning import mode on") as client:
            await self._users.sign(client)  # before the switch: who leaves meanwhile sees us
            try:
                await client.call("CONFIG", "SET", SETTING, "yes")
            except Refused as refusal:
                _log.warning("no import mode", reply=refusal.text, hint="allow +config|set")
                await self._users.leave(client)
                return False
        return True

    async def keep(self) -> None:
        """Looks at the mode every second until cancelled, and puts it back when it is lost."""
        backoff = Backoff.quick()
        while True:
            try:
                async with control(self._endpoint, "keeping import mode") as client:
                    while True:
                        await self._look(client)
                        backoff.reset()
                        await asyncio.sleep(LOOK_SECONDS)
            except TargetError as error:  # lanes and applier say more of it, and the mode is looked at when it is back
                _log.debug("import mode is not looked at", error=str(error))
            await asyncio.sleep(backoff.next_wait())

    async def leave(self) -> None:
        """Lets the target expire and evict again, unless another link needs the mode.

        Raises:
            TargetError: it cannot be reached, or refuses.
        """
        async with control(self._endpoint, "turning import mode off") as client:
            if not await self._users.leave(client):
                await client.call("CONFIG", "SET", SETTING, "no")

    async def _look(self, client: Control) -> None:
        """Puts the mode back when it is off, and signs again; raises as `look` does."""
        if not await look(client):
            note_loss(self._progress)
        await self._users.sign(client)


def _now(told: object) -> tuple[int, str]:
    """The target's clock in unix ms, and which process it is, from ``INFO server``; zero and "" where it does not tell."""
    info = parse_info(told) if isinstance(told, bytes) else {}
    clock = info.get("server_time_usec", "")
    return int(clock) // 1000 if clock.isdecimal() else 0, info.get("run_id", "")


def _alive(told: object, users: object) -> list[str]:
    """Links that need the mode now. One that was copied with the data names another process, and does not count."""
    now, process = _now(told)
    signed = parse_pairs(users) if isinstance(users, list) else {}
    found = []
    for link, text in signed.items():
        until, _, where = text.partition(" ")
        if until.isdecimal() and int(until) > now and where == process:
            found.append(link)
    return sorted(found)
