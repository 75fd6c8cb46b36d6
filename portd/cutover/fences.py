"""What stops the writes at the source, and lets them go on again.

``pause`` is the one that frees the source by itself: it lasts for a few seconds and is renewed while it is needed, so a
cut-over that is killed, or whose network is, leaves clients that went on after a moment's wait. The others stay until somebody
ends them, and their clients get errors instead of waiting.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from portd.cutover.doubt import Doubt
from portd.errors import ConfigError, HandshakeError, SourceLost
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control, parse_pairs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

LEASE_SECONDS: Final = 3.0  # a pause that nobody renews ends after it
RENEW_SECONDS: Final = 0.5
FREE_SECONDS: Final = 60.0  # to try to undo it, over connections made anew
NEVER_REPLICAS: Final = 1_000_000  # no server has so many
WRITE: Final = "-@write"
_REPLICAS: Final = "min-replicas-to-write"
_LAG: Final = "min-replicas-max-lag"

log = get_logger("cutover")


class Fence(ABC):
    """Stops writes. Use: `prepare`, then `stop`, `keep` as a task, and `free` or `stay` at the end.

    Args:
        endpoint: where clients write.

    Attributes:
        absolute: nothing at all is written while it stands, not even by the server itself (what expires).
        where: that is, for people.
    """

    absolute = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.where = endpoint.display
        self._stands = False

    @property
    def stands(self) -> bool:
        """It may have to be undone."""
        return self._stands

    @property
    def patience(self) -> float:
        """Seconds for which undoing it is tried."""
        return FREE_SECONDS

    @abstractmethod
    async def prepare(self) -> str:
        """Finds out whether it can be done, changing nothing; what will be done, in words.

        Raises:
            PortdError: it cannot.
        """

    async def stop(self) -> None:
        """Stops the writes."""
        self._stands = True  # also where the answer is lost
        await self._stop()

    async def keep(self) -> None:
        """Sees to it that they stay stopped, until cancelled."""
        await asyncio.Event().wait()

    async def free(self) -> bool:
        """Lets writes go on, whatever it takes; whether that is certain. Idempotent."""
        backoff = Backoff.quick()
        try:
            async with asyncio.timeout(self.patience):
                while self._stands:
                    try:
                        await self._free()
                        self._stands = False
                    except (OSError, Refused, Doubt) as error:
                        log.warning("writes are not let go on yet", source=self.where, error=str(error))
                        await asyncio.sleep(backoff.next_wait())
        except TimeoutError:
            log.exception("writes could not be let go on", source=self.where, hint=self.by_hand())
            return False
        return True

    async def stay(self, seconds: float) -> str:
        """It is done: what holds from now on, in words.

        Args:
            seconds: for which clients that wait go on waiting.
        """
        del seconds
        return "writes stay stopped"

    @abstractmethod
    def by_hand(self) -> str:
        """How somebody undoes it who has to."""

    @abstractmethod
    async def _stop(self) -> None: ...

    @abstractmethod
    async def _free(self) -> None: ...

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[Control]:
        async with open_control(self.endpoint) as control:
            yield control


@asynccontextmanager
async def _asking(endpoint: Endpoint, needs: str) -> AsyncIterator[Control]:
    """A connection for questions before anything is done; what goes wrong becomes an error with its exit code."""
    try:
        async with open_control(endpoint) as control:
            yield control
    except Refused as refusal:
        raise HandshakeError(
            f"{endpoint.display} refuses what stops the writes: {refusal.text}", hint=f"it takes {needs}"
        ) from None
    except OSError as error:
        raise SourceLost(
            f"{endpoint.display} does not answer: {error or 'timeout'}", hint="check host and port"
        ) from None


class Pause(Fence):
    """``CLIENT PAUSE <ms> WRITE`` (Redis 6.2): clients that write wait, nothing expires, nothing is evicted."""

    absolute = True

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._until = 0.0  # when the longest of them ends, by our clock

    @property
    def patience(self) -> float:
        """It ends by itself: somewhat longer than that."""
        return min(FREE_SECONDS, max(self._until - time.monotonic(), 0.0) + LEASE_SECONDS)

    async def prepare(self) -> str:
        """Finds out whether it can be done; see `Fence`."""
        async with _asking(self.endpoint, "+client|pause +client|unpause") as control:
            try:
                await control.call("CLIENT", "PAUSE", "soon", "WRITE")  # no number: refused, but by whom?
            except Refused as refusal:
                if refusal.text.startswith("NOPERM"):
                    raise
                if "timeout" not in refusal.text:
                    raise ConfigError(
                        f"{self.endpoint.display} cannot pause writes alone: {refusal.text}",
                        hint="that came with Redis 6.2; --stop-writes acl (6.0), replicas or command stop them elsewhere",
                    ) from None
        return f"CLIENT PAUSE, for {LEASE_SECONDS:.0f} s at a time"

    async def _stop(self) -> None:
        await self._renew()

    async def keep(self) -> None:
        """Renews it until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self._renew()

    async def _renew(self, seconds: float = LEASE_SECONDS) -> None:
        """Raises: Doubt: it is not certain that writes stand still."""
        self._until = max(self._until, time.monotonic() + seconds)
        try:
            async with asyncio.timeout(LEASE_SECONDS / 2), self._control() as control:
                await control.call("CLIENT", "PAUSE", int(seconds * 1000), "WRITE")
        except (OSError, Refused) as error:
            raise Doubt(
                f"writes at {self.endpoint.display} cannot be paused: {error or 'no answer in time'}",
                hint="they go on within seconds, if they are paused",
            ) from error

    async def _free(self) -> None:
        async with self._control() as control:
            await control.call("CLIENT", "UNPAUSE")

    async def stay(self, seconds: float) -> str:
        """It is done; see `Fence`."""
        if seconds <= 0:
            return "" if await self.free() else self.by_hand()
        await self._renew(seconds)
        return f"clients that write wait for {seconds:g} s more; what they have sent is executed at the source then"

    def by_hand(self) -> str:
        """How somebody undoes it."""
        return f"a pause ends by itself, {LEASE_SECONDS:.0f} s after it was renewed; CLIENT UNPAUSE ends it at once"


class Acl(Fence):
    """Users lose ``@write`` (Redis 6.0). They get it back as it was, to the letter, should it be rolled back."""

    def __init__(self, endpoint: Endpoint, users: Sequence[str]) -> None:
        super().__init__(endpoint)
        self.users = users
        self._rules: dict[str, list[str]] = {}

    async def prepare(self) -> str:
        """Finds out whether it can be done; see `Fence`."""
        if not self.users:
            raise ConfigError("nobody is named who is to write no more", hint="name them: --fence-user app")
        async with _asking(self.endpoint, "+acl|list +acl|setuser") as control:
            lines = [line.decode("utf-8", "surrogateescape").split(" ") for line in await control.call("ACL", "LIST")]
            mine = (await control.call("ACL", "WHOAMI")).decode("utf-8", "surrogateescape")
        found = {line[1]: line[2:] for line in lines}
        for user in self.users:
            if user not in found:
                raise ConfigError(f"{self.where} has no user {user!r}", hint="ACL USERS lists them")
            if user == mine:
                raise ConfigError(f"{user!r} is our own user at {self.where}", hint="give portd a user of its own")
            if any(word.startswith("(") for word in found[user]):
                raise ConfigError(f"the user {user!r} has selectors", hint="--stop-writes command does what you decide")
            self._rules[user] = found[user]
        return f"ACL SETUSER {WRITE} for {', '.join(self.users)}"

    async def _stop(self) -> None:
        try:
            async with self._control() as control:
                for user in self.users:
                    await control.call("ACL", "SETUSER", user, WRITE)
        except (OSError, Refused) as error:
            raise Doubt(f"users of {self.endpoint.display} cannot be kept from writing: {error}") from error

    async def _free(self) -> None:
        async with self._control() as control:
            for user in self.users:
                words = [word.encode("utf-8", "surrogateescape") for word in self._rules[user]]
                await control.call("ACL", "SETUSER", user.encode("utf-8", "surrogateescape"), "reset", *words)

    async def stay(self, seconds: float) -> str:
        """It is done; see `Fence`."""
        del seconds
        return f"{', '.join(self.users)} cannot write at the source; ACL SAVE there makes it last"

    def by_hand(self) -> str:
        """How somebody undoes it."""
        return "; ".join(f"ACL SETUSER {user} +@write" for user in self.users) + ", or ACL LOAD, at the source"


class Replicas(Fence):
    """``min-replicas-to-write`` that nobody can meet: every write is refused, by any server since Redis 2.8.

    Before Redis 7.0, what scripts write is not refused: it is seen in the stream, and rolls back.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._before: dict[str, str] = {}

    async def prepare(self) -> str:
        """Finds out whether it can be done; see `Fence`."""
        async with _asking(self.endpoint, "+config|get +config|set") as control:
            self._before = await _settings(control, _REPLICAS, _LAG)
        if self._before.keys() != {_REPLICAS, _LAG}:
            raise ConfigError(f"{self.endpoint.display} has no {_REPLICAS}", hint="choose another --stop-writes")
        return f"CONFIG SET {_REPLICAS} {NEVER_REPLICAS}"

    async def _stop(self) -> None:
        try:
            async with self._control() as control:
                if self._before[_LAG] == "0":  # no limit is no rule at all
                    await control.call("CONFIG", "SET", _LAG, 10)
                await control.call("CONFIG", "SET", _REPLICAS, NEVER_REPLICAS)
        except (OSError, Refused) as error:
            raise Doubt(f"{self.endpoint.display} does not refuse writes: {error}") from error

    async def _free(self) -> None:
        async with self._control() as control:
            for name, value in self._before.items():
                await control.call("CONFIG", "SET", name, value)

    async def stay(self, seconds: float) -> str:
        """It is done; see `Fence`."""
        del seconds
        return f"the source refuses writes; {self.by_hand()} ends that"

    def by_hand(self) -> str:
        """How somebody undoes it."""
        return "; ".join(f"CONFIG SET {name} {value}" for name, value in self._before.items()) + " at the source"


class Own(Fence):
    """The operator's commands, run by a shell."""

    def __init__(self, endpoint: Endpoint, stop: str, resume: str) -> None:
        super().__init__(endpoint)
        self._stop_command = stop
        self._resume_command = resume

    async def prepare(self) -> str:
        """Finds out whether it can be done; see `Fence`."""
        if not (self._stop_command and self._resume_command):
            raise ConfigError(
                "--stop-writes command needs --stop-command and --resume-command", hint="the second undoes the first"
            )
        return "the command of --stop-command"

    async def _stop(self) -> None:
        await self._run("--stop-command", self._stop_command)

    async def _free(self) -> None:
        await self._run("--resume-command", self._resume_command)

    async def _run(self, name: str, command: str) -> None:
        """Raises: Doubt: it failed."""
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            if process.returncode is None:
                os.killpg(process.pid, 15)
            raise
        if code:
            raise Doubt(f"the command of {name} ended with {code}", hint="its output stands above")

    def by_hand(self) -> str:
        """How somebody undoes it."""
        return "run the command of --resume-command"


async def _settings(control: Control, *names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        found |= parse_pairs(await control.call("CONFIG", "GET", name))
    return found
