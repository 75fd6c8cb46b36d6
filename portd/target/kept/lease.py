"""The lease: one portd at a time writes through a link, and a second one is told so.

Beside the checkpoint lies a hash, ``<checkpoint key>:lease``, that says which process has the link. It expires unless it
is renewed, every second, over a connection of its own. The lease makes a second one refuse instead of taking over. What
keeps the data safe is the epoch (`portd.target.kept.epoch`), which is written in the same transaction: whoever takes the
link, by --takeover, after an expiry or a restart, voids everything that the one before has on its way.

Who gives the link back says so in the epoch's hash (``given_back``), and pushes into a list, ``<checkpoint key>:bell``, which it
removes with its next command: that wakes a standby (`portd.target.kept.vacancy`).

====================  ==============================================================================
``token``             random, of the process
``host``              for messages
``machine, space``    boot id and process id namespace: whether a process id means something to us
``pid, started``      of the process
``client, run_id``    its connection, and the target process that numbered it
====================  ==============================================================================
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from portd.errors import LinkTaken, TargetBusy, TargetError, TargetRefused
from portd.log import get_logger
from portd.model import LEASE_SECONDS, ConnectionState, LeaseState
from portd.net.backoff import Backoff
from portd.net.control import parse_pairs
from portd.net.identity import run_id_of
from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.capabilities import EVICTING_COMMANDS
from portd.target.connection import Connection, ConnectionOptions, Disconnected, connect, text_of, while_connected
from portd.target.control import control
from portd.target.kept.checkpoint import LEASE_SUFFIX
from portd.target.kept.epoch import FIELD, GIVEN_BACK, PLAIN, Epochs, check, taken_over
from portd.target.kept.eviction import Eviction, tag_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.net.endpoint import Endpoint
    from portd.target.kept.epoch import Epoch

_log = get_logger("target")

MOST_PID: Final = 2**31 - 1  # of a process; no server has numbered as many connections
RENEW_SECONDS: Final = 1.0
LEASE: Final = "the lease"  # for messages
LATE_SECONDS: Final = 3.0  # not renewed for so long, by one whose connection is gone: it is dead
LATE_MILLISECONDS: Final = (LEASE_SECONDS - LATE_SECONDS) * 1000  # what is left of its lease then
BELL_SUFFIX: Final = ":bell"  # of a list beside the checkpoint that is there for a moment when a link is given back


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a link; see the table in the module's docstring."""

    token: str
    host: str
    machine: str
    space: str
    pid: int
    started: str
    client: int = 0
    run_id: str = ""

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_read("/proc/sys/kernel/random/boot_id"),
            space=_namespace(),
            pid=os.getpid(),
            started=_started(os.getpid()),
        )

    @classmethod
    def parse(cls, answer: list[Any]) -> Holder | None:
        """Reads the reply to HGETALL; None when there is no lease."""
        if not answer:
            return None
        text = parse_pairs(answer)
        values: dict[str, Any] = {each.name: text.get(each.name, "") for each in fields(cls)}
        for name in ("pid", "client"):
            values[name] = whole(values[name], MOST_PID) or 0
        return cls(**values)

    def words(self) -> list[str]:
        """Names and values, alternating."""
        return [str(word) for pair in asdict(self).items() for word in pair]

    def knows_dead(self, other: Holder) -> bool:
        """Whether *other* ran on this machine and does not run any more."""
        here = (self.machine, self.space) == (other.machine, other.space) and self.machine != ""
        return here and _ended(other.pid, other.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """Takes a link and keeps it. Use: `acquire`, `keep` as a task, `begin` each session, `release` at an orderly end.

    Args:
        endpoint: the target.
        checkpoint_key: of the link.
        link: its name.
        run_id: of the target process; "" when it does not tell.
        connection: how connections are made.
        evicts: our user may end connections.
        state: told when the lease was renewed.

    Attributes:
        key: of the lease.
        eviction: how connections that write are ended; None where our user may not.
        fresh: there was no epoch when the link was taken: nobody has written through it yet.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        checkpoint_key: str,
        link: str,
        *,
        run_id: str = "",
        connection: ConnectionOptions | None = None,
        evicts: bool = False,
        state: LeaseState | None = None,
    ) -> None:
        self.key = checkpoint_key + LEASE_SUFFIX
        self._bell = checkpoint_key + BELL_SUFFIX
        self._state = state or LeaseState()
        self._endpoint = endpoint
        self._link = link
        self._run_id = run_id
        self._taken_run_id = run_id  # of the process that the link was taken from
        self._me = Holder.me()
        self.fresh = False
        self._client = 0  # id of the connection that the lease names
        self.eviction = Eviction(link, self._me.token) if evicts else None
        self._epochs = Epochs(checkpoint_key, link, self._me.token, plain=evicts)
        self._options = connection or ConnectionOptions()
        self._connection: Connection | None = None

    def options(self, options: ConnectionOptions | None = None) -> ConnectionOptions:
        """Options for connections that write: they carry our token in their names."""
        return replace(options or self._options, tag=tag_of(self._link, self._me.token))

    def epochs(self, key: str) -> Epochs:
        """Makes epochs of this process that stand elsewhere than beside the checkpoint: on another node of a cluster."""
        return Epochs(key, self._link, self._me.token, plain=True)

    # -- taking

    async def acquire(self, *, takeover: bool = False) -> Epoch:
        """Takes the link, at once when nobody has it; returns the epoch that begins with that.

        Args:
            takeover: take it also from a process that is alive, which ends then.

        Raises:
            LinkTaken: another process has it.
            TargetError: the target refuses, or cannot be reached.
        """
        connection = self._connection = await connect(self._endpoint, "lease", ConnectionState(), self._options)
        try:
            async with asyncio.timeout(LEASE_SECONDS * 2):
                await self._recognise(connection)
                epoch = self._epochs.new()
                await self._take(connection, epoch, takeover=takeover)
                if self.eviction is not None:
                    await self.eviction.others(connection)
        except TimeoutError:
            connection.close()
            raise TargetBusy("the target does not answer while the lease is taken") from None
        except BaseException:
            connection.close()
            raise
        self._state.renewed_at = time.time()
        return epoch

    async def _take(self, connection: Connection, epoch: Epoch, *, takeover: bool) -> None:
        """Writes lease and epoch.

        Raises:
            LinkTaken: another process has the link.
            TargetRefused: somebody may have left data on its way that only the end of his connections stops.
        """
        self._taken_run_id = self._run_id
        while True:
            holder, found, plain = await self._look(connection)
            self.fresh = found is None
            if holder is None or holder.token == self._me.token:
                pass
            elif await self._is_dead(connection, holder):
                _log.info("lease of a dead process", link=self._link, holder=str(holder))
            else:
                if not takeover:
                    await connection.ask(request("UNWATCH"))
                    raise LinkTaken(
                        f"{holder} has the link {self._link!r} already",
                        hint="stop it, use another --link, or start with --takeover, which ends it",
                    )
                _log.warning("taking the link over", link=self._link, holder=str(holder))
            if plain and self.eviction is None:
                await connection.ask(request("UNWATCH"))
                raise TargetRefused(
                    f"the link {self._link!r} was written over connections that only CLIENT KILL makes sure to have ended",
                    hint=f"allow {' '.join(f'+{name}' for name in EVICTING_COMMANDS)} to portd's user on the target",
                )
            if await self._write(connection, lease=True, epoch=epoch):
                return

    async def begin(self) -> Epoch:
        """Begins a new epoch: whatever this process has sent for the session before takes no effect any more.

        Raises:
            LinkTaken: another process has the link.
            TargetError: the target refuses, for now or for good, or is lost.
        """
        connection = await connect(self._endpoint, "lease", ConnectionState(), self._options)
        try:
            async with asyncio.timeout(LEASE_SECONDS * 2):
                await self._recognise(connection)
                epoch = self._epochs.new()
                await self._claim(connection, epoch=epoch)
                if self.eviction is not None:
                    await self.eviction.ours(connection)
        except TimeoutError:
            raise TargetBusy("the target does not answer while the lease is taken") from None
        finally:
            connection.close()
        return epoch

    async def _claim(self, connection: Connection, *, lease: bool = False, epoch: Epoch | None = None) -> None:
        """Writes lease and epoch as far as they are missing, or wanted anew.

        Raises:
            LinkTaken: another process has the link, or had it since.
        """
        while True:
            holder, found, _ = await self._look(connection)
            self._check_ours(holder, found)
            if epoch is None and not self._epochs.are_ours(found):
                epoch = self._epochs.new()
            if await self._write(connection, lease=lease or holder is None, epoch=epoch):
                return

    def _check_ours(self, holder: Holder | None, found: bytes | None) -> None:
        """Makes sure that nobody else has taken the link since we did.

        Somebody else's epoch alone says so as well: he had it and is gone. But a target that is another process now may
        have gone back to an older file, with the epoch of a time before ours.
        """
        foreign = found is not None and not self._epochs.are_ours(found) and self._run_id == self._taken_run_id
        if foreign or (holder is not None and holder.token != self._me.token):
            raise taken_over(self._link)

    async def _look(self, connection: Connection) -> tuple[Holder | None, bytes | None, bool]:
        """Who has the lease, the epoch, and whether data was written outside of transactions; all is watched."""
        answers = await connection.ask(
            request("WATCH", self.key, self._epochs.key),
            request("HGETALL", self.key),
            request("HGET", self._epochs.key, FIELD),
            request("HGET", self._epochs.key, PLAIN),
        )
        for key, answer in zip(("", self.key, *(2 * (self._epochs.key,))), answers, strict=True):
            check(answer, LEASE, key)
        holder = Holder.parse(answers[1])
        # Where the source is the target of another portd, that one's lease is copied with everything else.
        is_copy = holder is not None and "" != holder.run_id != self._run_id != ""
        return None if is_copy else holder, answers[2], answers[3] == b"1"

    async def _recognise(self, connection: Connection) -> None:
        """Notes which process the target is now."""
        (info,) = await connection.ask(request("INFO", "server"))
        if not text_of(info):
            self._run_id = run_id_of(info)

    async def _write(self, connection: Connection, *, lease: bool, epoch: Epoch | None) -> bool:
        """Writes lease, epoch or both, unless they changed since they were watched."""
        commands: list[bytes] = []
        if lease:
            me = replace(self._me, client=connection.client_id, run_id=self._run_id)
            self._client = connection.client_id
            commands += [request("DEL", self.key), request("HSET", self.key, *me.words()), self._expiry()]
        if epoch is not None:
            commands.append(epoch.stated())
        return await self._execute(connection, *commands)

    def restated(self) -> list[bytes]:
        """What writes the lease as it is, inside a transaction that clears it away."""
        me = replace(self._me, client=self._client, run_id=self._run_id)
        return [request("HSET", self.key, *me.words()), self._expiry()]

    async def _execute(self, connection: Connection, *commands: bytes, behind: Sequence[bytes] = ()) -> bool:
        """One transaction, and commands *behind* it in any case; False where what is watched has changed."""
        answers = await connection.ask(request("MULTI"), *commands, request("EXEC"), *behind)
        for answer in answers:
            check(answer, LEASE)
        executed = answers[len(commands) + 1]
        for answer in executed or ():
            check(answer, LEASE)
        return executed is not None

    def _expiry(self) -> bytes:
        return request("PEXPIRE", self.key, int(LEASE_SECONDS * 1000))

    async def _is_dead(self, connection: Connection, holder: Holder) -> bool:
        """Whether the holder certainly does not run: its process is gone, or its connection is and it does not renew."""
        if self._me.knows_dead(holder):
            return True
        while await has_left(connection, holder, self._run_id):
            (left,) = await connection.ask(request("PTTL", self.key))
            if text_of(left):
                return False
            if left < LATE_MILLISECONDS:
                return True
            await asyncio.sleep(RENEW_SECONDS)
            if (await self._look(connection))[0] != holder:
                return False
        return False

    # -- keeping

    async def keep(self) -> None:
        """Renews the lease until cancelled; follow `acquire` with it.

        Raises:
            LinkTaken: another process took the link over.
            TargetError: the target refuses for good.
        """
        backoff = Backoff.quick()
        while True:
            try:
                if self._connection is None:
                    self._connection = await connect(self._endpoint, "lease", ConnectionState(), self._options)
                    await self._recognise(self._connection)
                await while_connected(self._connection, self._renew(self._connection, backoff))
            except (Disconnected, TargetBusy) as error:
                self._options.note(error)
                _log.debug("lease is not renewed", error=str(error))
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            await asyncio.sleep(backoff.next_wait())

    async def _renew(self, connection: Connection, backoff: Backoff) -> None:
        known = 0  # client id that the lease is known to carry
        while True:
            holder, found, _ = await self._look(connection)
            self._check_ours(holder, found)
            if holder is not None and self._epochs.are_ours(found) and known == connection.client_id:
                await self._execute(connection, self._expiry())
            else:  # flushed, expired, copied from the source, or this is a new connection
                await self._claim(connection, lease=True)
                known = connection.client_id
            self._state.renewed_at = time.time()
            backoff.reset()
            await asyncio.sleep(RENEW_SECONDS)

    async def release(self, *, forget: bool = False, keys: Sequence[str] = ()) -> bool:
        """Gives the link back, for the next process to take at once; whether it is free. What fails is left to expire.

        Args:
            forget: the link is not needed any more: nothing of it stays, the epoch neither.
            keys: what else goes with it then.
        """
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                connection = await connect(self._endpoint, "lease", ConnectionState(), self._options)
                try:
                    holder, found, _ = await self._look(connection)
                    # There is no lease for a moment behind a FLUSHALL; the epoch says that the link is ours.
                    if (holder is None or holder.token == self._me.token) and self._epochs.are_ours(found):
                        if self.eviction is not None:
                            await self.eviction.ours(connection)
                        last = request("HSET", self._epochs.key, PLAIN, 0, GIVEN_BACK, found or "")
                        if forget:
                            last = request("DEL", self._epochs.key, *keys)
                        # Pushing wakes a standby. What is behind the transaction finds the list served, or not needed.
                        bell = [request("RPUSH", self._bell, 1), request("PEXPIRE", self._bell, 1000)]
                        behind = request("DEL", self._bell)
                        return await self._execute(connection, request("DEL", self.key), last, *bell, behind=(behind,))
                finally:
                    connection.close()
        except (TargetError, TimeoutError) as error:
            _log.debug("lease is left to expire", error=str(error))
        return False

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def read_lease(endpoint: Endpoint, checkpoint_key: str) -> Holder | None:
    """Who has a link; None when nobody has.

    Raises:
        TargetError: the target refuses, or cannot be reached.
    """
    async with control(endpoint, "reading the lease") as client:
        return Holder.parse(await client.call("HGETALL", checkpoint_key + LEASE_SUFFIX))


async def has_left(connection: Connection, holder: Holder, run_id: str) -> bool:
    """Whether the target has no connection any more that the holder renews its lease over.

    Args:
        connection: to the target.
        holder: see there.
        run_id: of the target's process: only who numbered the holder's connection can tell.
    """
    if not holder.client or not run_id or holder.run_id != run_id:
        return False
    (clients,) = await connection.ask(request("CLIENT", "LIST"))
    return not text_of(clients) and f"id={holder.client} ".encode() not in clients


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine was started, in ticks since boot; "" when that cannot be seen (proc(5), stat)."""
    facts = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if facts and facts[0] in {"Z", "X"}:
        return "ended"
    return facts[19] if len(facts) > 19 else ""


def _ended(pid: int, started: str) -> bool:
    """Whether the process *pid* that began at *started* is gone for certain. Another user's may be hidden from us."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, or one that took the number over
    now = _started(pid)
    return now not in {"", started}
