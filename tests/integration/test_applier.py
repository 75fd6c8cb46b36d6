"""The applier on real targets: exactly once through lost connections, refusals, memory pressure and large commands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import DecodeError, ScriptMissing, TargetError, TargetLost, TargetRejected
from portd.kernel.stream import Piece, StreamSplitter
from portd.model import Position, Progress
from portd.net.endpoint import Endpoint
from portd.net.resp import request
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters, Letter
from portd.target.kept.checkpoint import Checkpoint, State, read_checkpoint
from portd.target.kept.epoch import Epoch
from portd.target.limiter import Limiter
from portd.target.stream.account import AT_ONCE
from portd.target.stream.applier import Applier
from portd.target.stream.applying import ApplierOptions
from portd.target.stream.scriptbook import ScriptBook
from portd.target.stream.scripts import Scripts
from tests.fencing import put_checkpoint, stand
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.relay import Relay, holding
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.conftest import ServerFactory

KEY = "portd:checkpoint:test"
REPLID = "0123456789abcdef0123456789abcdef01234567"
FIRST = 1000  # replication offset before the first byte
FAST = ConnectionOptions(retry_first_seconds=0.005, retry_limit_seconds=0.05)
PATIENCE_MS = 60_000  # of a target that is let go on before


class Stream:
    """A replication stream in memory that can be read again from any offset: what spool and splitter are in the product.

    Args:
        piece_bytes: size of pieces.
        settings: of the splitter.
    """

    def __init__(self, piece_bytes: int = 4096, **settings: Any) -> None:
        self.bytes = bytearray()
        self.released = FIRST
        self.rewinds: list[int] = []
        self.received_at = 0.0
        self.waiting_since = 0.0
        self._piece_bytes = piece_bytes
        self._settings: dict[str, Any] = dict(settings)
        self._fed = 0
        self._ended = False
        self._more = asyncio.Event()
        self._splitter = StreamSplitter(FIRST, 0, piece_bytes=piece_bytes, **settings)

    def write(self, *words: bytes | str | int) -> int:
        """Appends a command; returns the replication offset of its first byte."""
        start = self.end + 1
        self.bytes += request(*words)
        self._more.set()
        return start

    def finish(self) -> None:
        """Says that no more will come."""
        self._ended = True
        self._more.set()

    @property
    def end(self) -> int:
        """Replication offset of the last byte."""
        return FIRST + len(self.bytes)

    async def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """See `PieceSource`."""
        while (piece := self.pending(max_bytes, max_commands)) is None:
            if self._ended:
                return None
            self._more.clear()
            await self._more.wait()
        return piece

    def pending(self, max_bytes: int, max_commands: int) -> Piece | None:
        """See `PieceSource`."""
        while True:
            piece = self._splitter.next_piece(max_bytes, max_commands)
            if piece is not None:
                self.received_at = time.time()
                return piece
            taken = self._splitter.feed(memoryview(self.bytes)[self._fed : self._fed + 65536].tobytes(), 0)
            self._fed += taken
            if not taken:
                return None

    def rewind(self, offset: int, db: int) -> None:
        """See `PieceSource`."""
        assert offset >= self.released, "what was released cannot be read again"
        self.rewinds.append(offset)
        self._fed = offset - FIRST
        self._splitter = StreamSplitter(offset, db, piece_bytes=self._piece_bytes, **self._settings)

    def exclude(self, offset: int) -> None:
        """See `PieceSource`."""
        self._splitter.exclude(offset)

    def lack(self, databases: frozenset[int]) -> None:
        """See `PieceSource`."""
        self._settings["lacking"] = self._settings.get("lacking", frozenset()) | databases

    def release(self, offset: int) -> None:
        """See `PieceSource`."""
        assert offset > self.released
        self.released = offset


class Sync:
    """An applier on a target, with what a test looks at."""

    def __init__(
        self,
        server: Server,
        stream: Stream,
        *,
        url: str = "",
        stop: bool = False,
        epoch: Epoch | None = None,
        **options: Any,
    ) -> None:
        self.server = server
        self.stream = stream
        self.progress = Progress()
        self.letters = Letters(self.progress, stop=stop)
        self.endpoint = Endpoint.parse(url or server.url)
        self.start = Checkpoint(position=Position(REPLID, FIRST), db=0, epoch="before", state=State.SNAPSHOT)
        self.epoch = epoch or Epoch.of(KEY)
        self.options = ApplierOptions(epoch=self.epoch, **{"connection": FAST, **options})
        self._applier: Applier | None = None

    async def begin(self) -> None:
        """Writes the checkpoint that the applier takes over."""
        await put_checkpoint(Endpoint.parse(self.server.url), KEY, self.start, self.epoch)

    @property
    def applier(self) -> Applier:
        """Made inside of the loop."""
        if self._applier is None:
            self._applier = Applier(
                self.endpoint, self.stream, self.start, KEY, self.progress, self.letters, self.options
            )
        return self._applier

    async def caught_up(self) -> None:
        """Waits until everything written is in the target."""
        await wait_for(lambda: self.progress.stream.checkpointed_offset == self.stream.end, dump=lambda: self.progress)


class Letters(DeadLetters):
    """Dead letters that are kept for the test."""

    def __init__(self, progress: Progress, *, stop: bool) -> None:
        super().__init__(progress, stop=stop)
        self.kept: list[Letter] = []

    def add_all(self, letters: Iterable[Letter]) -> None:
        """Keeps them."""
        letters = list(letters)
        self.kept += letters
        super().add_all(letters)


@contextlib.asynccontextmanager
async def running(sync: Sync, seconds: float = 60) -> AsyncIterator[Sync]:
    """Runs the applier; at the end the stream is finished and everything must be applied and checkpointed."""
    await sync.begin()
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(sync.applier.run(), name="applier")
            yield sync
            sync.stream.finish()
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from errors
    found = await read_checkpoint(Endpoint.parse(sync.server.url), KEY)
    assert found is not None
    assert (found.position, found.state) == (Position(REPLID, sync.stream.end), State.STREAM)
    assert found.epoch == sync.applier.checkpoint.epoch != sync.start.epoch
    assert sync.stream.released in {sync.stream.end, FIRST}


def data_of(target: Server, db: int = 0) -> set[bytes]:
    """Names in a database of the target, ours left out."""
    client: Any = target.client(db=db)
    return {name for name in client.keys("*") if not name.startswith(KEY.encode())}


async def reaches(sync: Sync, offset: int) -> None:
    """Waits until the checkpoint is there."""
    await wait_for(lambda: sync.progress.stream.checkpointed_offset == offset, dump=lambda: sync.progress)


def kill_portd(server: Server) -> int:
    """CLIENT KILL of every connection of portd."""
    client = server.client()
    victims = [each["id"] for each in client.client_list() if each["name"].startswith("portd-")]
    for victim in victims:
        with contextlib.suppress(Exception):  # it may be gone already
            client.client_kill_filter(_id=victim)
    return len(victims)


# ---------------------------------------------------------------------------------------------------------------------


@both_loops
async def test_applies_and_checkpoints(binary: Any, servers: ServerFactory) -> None:
    """Commands of several databases and transactions arrive once, in order; the checkpoint says how far and where."""
    sync = Sync(servers(binary), stream := Stream())
    async with running(sync):
        for number in range(300):
            if number % 7 == 0:
                stream.write("SELECT", number % 3)
            stream.write("RPUSH", "list", number)
            if number % 10 == 0:
                stream.write("MULTI")
                stream.write("INCR", "a")
                stream.write("INCR", "b")
                stream.write("EXEC")
        stream.write("PING")
        stream.write("REPLCONF", "GETACK", "*")
        await sync.caught_up()
        assert sync.applier.checkpoint.db == 294 % 3
    lists = [[int(item) for item in sync.server.client(db=db).lrange("list", 0, -1)] for db in range(3)]
    assert sorted(item for each in lists for item in each) == list(range(300))
    assert all(each == sorted(each) for each in lists)
    assert sum(int(sync.server.client(db=db).get("a") or 0) for db in range(3)) == 30
    assert sync.progress.stream.commands_applied == 300 + 43 + 60
    assert sync.progress.stream.commands_filtered == 2
    assert sync.progress.stream.transactions >= 1
    assert sync.applier.caught_up.is_set()
    assert sync.progress.position == Position(REPLID, stream.end)


@both_loops
@pytest.mark.parametrize("ages", [True, False])
async def test_takes_again_what_has_waited_while_the_target_stood_still(target: Server, *, ages: bool) -> None:
    """A group that grew while the target did nothing is made anew where its expiries depend on the time."""
    sync = Sync(target, stream := Stream(), ages=ages, caught_up_seconds=0.05)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        before = len(stream.rewinds)
        target.client().client_pause(PATIENCE_MS, all=False)
        for _ in range(20_000):  # many groups
            stream.write("INCR", "n")
        await asyncio.sleep(0.3)  # longer than a group may wait
        target.client().client_unpause()
        await sync.caught_up()
        assert (len(stream.rewinds) > before) == ages
    assert target.client().get("n") == b"20001"


@both_loops
@pytest.mark.parametrize("piece_bytes", [4096, 100])
async def test_a_transaction_that_is_not_whole_holds_nothing_back(target: Server, piece_bytes: int) -> None:
    """What stands before it is applied, however long its rest takes; the rest comes in one piece with its beginning."""
    sync = Sync(target, stream := Stream(piece_bytes))
    async with running(sync):
        for turn in range(1, 4):
            for _ in range(100):
                stream.write("INCR", "n")
            whole = stream.end
            stream.write("MULTI")
            for _ in range(20):
                stream.write("INCR", "m")
            await reaches(sync, whole)
            assert target.client().get("n") == b"%d" % (100 * turn)
            assert int(target.client().get("m") or 0) == 20 * (turn - 1)
            stream.write("EXEC")
            await sync.caught_up()
            assert target.client().get("m") == b"%d" % (20 * turn)
    assert sync.progress.stream.commands_applied == 3 * (100 + 20)  # MULTI and EXEC are not counted


@both_loops
@pytest.mark.parametrize("ages", [True, False])
async def test_makes_anew_what_has_waited_for_the_limiter(target: Server, *, ages: bool) -> None:
    """A limit makes groups wait; where expiries depend on the time they are split once more, and sent then."""
    limiter = Limiter(ops_per_second=500)
    sync = Sync(target, stream := Stream(), ages=ages, caught_up_seconds=0.05, limiter=limiter)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        before = len(stream.rewinds)
        for _ in range(400):
            stream.write("INCR", "n")
        await sync.caught_up()
        assert (len(stream.rewinds) > before) == ages
    assert target.client().get("n") == b"401"
    assert sync.progress.stream.commands_applied == 401


@both_loops
async def test_lost_replies_double_nothing(target: Server) -> None:
    """The connection is cut behind EXEC, before or inside its reply, again and again: every INCR counts once."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url)
        async with running(sync):
            for turn in range(60):
                for _ in range(5):
                    stream.write("INCR", "n")
                    stream.write("APPEND", "s", "x")
                    stream.write("RPUSH", "l", "x")
                if turn % 2:
                    proxy.to_client.cut_after = 1 + 7 * turn % 150
                else:
                    proxy.to_server.cut_after = 1 + 41 * turn % 900
                await sync.caught_up()
    client = target.client()
    assert (client.get("n"), client.strlen("s"), client.llen("l")) == (b"300", 300, 300)
    assert sync.progress.stream.commands_applied == 900
    assert sync.progress.lanes[0].connection.losses.total() > 20


@both_loops
async def test_killed_connections_double_nothing(target: Server) -> None:
    """CLIENT KILL at random moments under load: every INCR counts once, order is kept."""
    sync = Sync(target, stream := Stream(), max_commands=20)
    killed = 0
    async with running(sync):
        for number in range(3000):
            stream.write("INCR", "n")
            stream.write("RPUSH", "l", number)
            if number % 100 == 50:
                killed += await wait_for(lambda: kill_portd(target))
        await sync.caught_up()
    client = target.client()
    assert client.get("n") == b"3000"
    assert client.lrange("l", 0, -1) == [b"%d" % number for number in range(3000)]
    assert killed >= 30


@pytest.mark.parametrize("late", ["before", "between", "behind"])
@both_loops
async def test_late_execution_on_an_old_connection_doubles_nothing(target: Server, late: str) -> None:
    """Bytes of a connection that was given up and reach the target late do not take effect a second time.

    Before: after the new connection has read the checkpoint, before it opens a transaction. Between: before it executes
    that. Behind: after that.
    """
    target.client().acl_setuser(
        "plain", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-client|kill"]
    )
    with Relay(target.port) as relay:
        sync = Sync(target, stream := Stream(), url=f"redis://plain:pw@127.0.0.1:{relay.port}")
        sync.endpoint = replace(sync.endpoint, silence_seconds=0.2)
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            first = relay.hold(holding(b"EXEC"))
            stream.write("INCR", "n")
            await wait_for(first.caught.is_set)
            stream.write("INCR", "n")  # the second attempt is larger than the first
            if late != "behind":
                second = relay.hold(holding(b"EXEC" if late == "between" else b"MULTI"))
                await wait_for(second.caught.is_set)
                first.release()
                await wait_for(lambda: target.client().get("n") == b"2")
                second.release()
            await sync.caught_up()
            first.release()
            await wait_for(first.over.is_set)
        assert target.client().get("n") == b"3"
        assert sync.progress.stream.commands_applied == 3


@both_loops
async def test_group_with_unknown_command_goes_on_without_it(target: Server) -> None:
    """A command that cannot be queued is a dead letter; the rest of its group takes effect, exactly once, in order."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        stream.write("SELECT", 2)
        first = stream.write("NOSUCH", "key1", "secret")
        stream.write("INCR", "n")
        stream.write("MULTI")
        stream.write("INCR", "n")
        second = stream.write("ALSONOT", "key2")
        stream.write("INCR", "n")
        stream.write("EXEC")
        await sync.caught_up()
    assert (target.client().get("n"), target.client(db=2).get("n")) == (b"1", b"3")
    letters = [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept]
    assert letters == [(first, 2, "NOSUCH", b"key1"), (second, 2, "ALSONOT", b"key2")]
    assert (sync.progress.stream.commands_failed, sync.progress.stream.commands_applied) == (2, 5)
    assert "secret" not in str(sync.letters.kept) + sync.progress.last_error


@both_loops
async def test_failed_commands_are_named(target: Server) -> None:
    """WRONGTYPE inside EXEC names command, key, database and offset; everything else of the group takes effect."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 1)
        stream.write("SET", "str", "x")
        offset = stream.write("RPUSH", "str", "secret")
        stream.write("INCR", "n")
        stream.write("SELECT", 3)
        other = stream.write("INCRBY", "n", "many")
        await sync.caught_up()
    letters = [(letter.offset, letter.db, letter.command, letter.key, letter.code) for letter in sync.letters.kept]
    assert letters == [(offset, 1, "RPUSH", b"str", "WRONGTYPE"), (other, 3, "INCRBY", b"n", "ERR")]
    assert target.client(db=1).get("n") == b"1"
    assert (sync.progress.stream.commands_failed, sync.progress.stream.commands_applied) == (2, 4)


@both_loops
async def test_policy_stop_ends_behind_the_group(target: Server) -> None:
    """With the policy stop a refusal ends the applier; the checkpoint stands behind the group it was in."""
    sync = Sync(target, stream := Stream(), stop=True)

    async def attempt() -> None:
        async with running(sync):
            stream.write("SET", "str", "x")
            stream.write("RPUSH", "str", "x")

    with pytest.raises(TargetRejected, match="RPUSH"):
        await attempt()
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert found.position.offset == stream.end


@both_loops
async def test_waits_out_a_target_without_memory(servers: ServerFactory) -> None:
    """OOM: the group goes again as a whole until it passes; nothing is lost, doubled or reordered."""
    target = servers()
    client = target.client()
    sync = Sync(target, stream := Stream(), max_commands=50)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        client.config_set("maxmemory", 1)
        for number in range(500):
            stream.write("RPUSH", "l", number)
            stream.write("DEL", "other")  # is not refused, and must not go alone
        await wait_for(lambda: sync.progress.lanes[0].retries >= 3)
        assert "OOM" in sync.progress.last_error
        assert client.llen("l") == 0
        for _ in range(20):
            client.config_set("maxmemory", 0)
            await asyncio.sleep(0)
            client.config_set("maxmemory", 1)
            await asyncio.sleep(0.002)
        client.config_set("maxmemory", 0)
        await sync.caught_up()
    assert client.lrange("l", 0, -1) == [b"%d" % number for number in range(500)]
    assert sync.progress.stream.commands_failed == 0


@both_loops
async def test_readonly_target_is_waited_for(servers: ServerFactory) -> None:
    """A target that is demoted for a while is reconnected until it takes writes; then nothing is missing."""
    target, other = servers(), servers()
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().config_set("replica-read-only", "yes")
        target.client().replicaof("127.0.0.1", "1")  # nobody there: the data stays
        stream.write("INCR", "n")
        await wait_for(lambda: sync.progress.lanes[0].connection.losses.total() >= 2)
        target.client().replicaof("NO", "ONE")
        await sync.caught_up()
    assert target.client().get("n") == b"2"
    assert other.client().dbsize() == 0


@pytest.mark.parametrize("mode", ["whole", "refused", "failed", "cut"])
@both_loops
async def test_large_transactions_are_passed_on(target: Server, mode: str) -> None:
    """A transaction larger than the cap goes on as it comes, atomically, exactly once, whatever happens inside."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url, max_bytes=20_000, max_commands=100)
        async with running(sync):
            stream.write("INCR", "n")
            stream.write("SELECT", 4)
            stream.write("MULTI")
            for number in range(2000):
                stream.write("RPUSH", "l", f"{number}".ljust(50, "x"))
                if number == 1000 and mode == "refused":
                    refused = stream.write("NOSUCH", "key")
                if number == 1000 and mode == "failed":
                    refused = stream.write("INCR", "l")
            stream.write("INCR", "n")
            if mode == "cut":
                proxy.to_server.cut_after = 60_000
                await wait_for(lambda: sync.progress.lanes[0].connection.losses.total() == 1)
            assert target.client(db=4).dbsize() == 0
            stream.write("EXEC")
            stream.write("INCR", "n")
            await sync.caught_up()
            if mode == "cut":
                proxy.to_client.cut_after = 3
                stream.write("INCR", "m")
                await sync.caught_up()
    client = target.client(db=4)
    items: Any = client.lrange("l", 0, -1)
    assert [int(item.rstrip(b"x")) for item in items] == list(range(2000))
    assert (client.get("n"), target.client().get("n")) == (b"2", b"1")
    if mode == "refused":
        assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
            (refused, 4, "NOSUCH", b"key")
        ]
    elif mode == "failed":
        assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
            (refused, 4, "INCR", b"l")
        ]
    else:
        assert sync.letters.kept == []


@pytest.mark.parametrize("shape", ["commands", "large transaction"])
@pytest.mark.parametrize("when", ["queued", "run"])
@both_loops
async def test_many_refused_commands_take_one_round(target: Server, when: str, shape: str) -> None:
    """However many commands of a group are refused, it is sent once more at the most; each is named, the others apply."""
    sync = Sync(target, stream := Stream(), max_bytes=20_000 if shape == "large transaction" else 1024 * 1024)
    refused: list[tuple[int, int, str, bytes]] = []
    async with running(sync):
        stream.write("SET", "str", "x")
        if shape != "commands":
            stream.write("MULTI")
        for number in range(3000):
            if not number % 500:
                stream.write("SELECT", number // 500)
                stream.write("SET", "str", "x")
            stream.write("INCR", "n")
            command = "NOSUCH" if when == "queued" else "SADD"
            if not number % 3:
                refused.append((stream.write(command, "str", number), number // 500, command, b"str"))
        if shape != "commands":
            stream.write("EXEC")
        await sync.caught_up()
    assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == refused
    assert [target.client(db=db).get("n") for db in range(6)] == [b"500"] * 6
    progress = sync.progress.stream
    assert (progress.commands_failed, progress.commands_applied) == (1000, 1 + 3000 + 12)
    lost = sync.progress.lanes[0].connection.losses
    if shape == "large transaction":
        assert lost == ({"refused": 1} if when == "queued" else {})
    else:
        assert lost == {}
        assert sync.stream.rewinds == [FIRST]
        assert sync.progress.lanes[0].replies < 2 * 4013 + 10 * progress.transactions


@both_loops
async def test_dead_letters_leave_room_for_others(target: Server) -> None:
    """Letters are written some at a time: whoever waits for the loop gets a turn in between, and none is lost."""
    sync = Sync(target, stream := Stream())
    counts: list[int] = []

    async def watch() -> None:
        while True:
            counts.append(len(sync.letters.kept))
            await asyncio.sleep(0)

    stream.write("SET", "str", "x")
    stream.write("MULTI")
    for number in range(4000):
        stream.write("SADD", "str", number)
    stream.write("EXEC")
    watcher = asyncio.create_task(watch(), name="watch")
    async with running(sync):
        await sync.caught_up()
    watcher.cancel()
    counts.append(len(sync.letters.kept))
    assert counts[-1] == 4000
    assert max(after - before for before, after in itertools.pairwise(counts)) <= AT_ONCE


@both_loops
async def test_large_command_is_passed_on_in_parts(target: Server) -> None:
    """A command larger than a group goes on in parts; so does one that is refused, which is named then."""
    sync = Sync(target, stream := Stream(), max_bytes=20_000)
    value = bytes(range(256)) * 2000
    async with running(sync):
        stream.write("INCR", "n")
        stream.write("SET", "large", value)
        refused = stream.write("NOSUCH", "key", value)
        stream.write("SADD", "n", value)
        stream.write("APPEND", "large", "!")
        await sync.caught_up()
    client = target.client()
    assert client.get("large") == value + b"!"
    letters = sync.letters.kept
    assert [(letter.command, letter.key, letter.code) for letter in letters[:1]] == [("NOSUCH", b"key", "ERR")]
    assert letters[0].offset == refused
    assert letters[1].code == "WRONGTYPE"


@both_loops
async def test_large_transaction_waits_out_oom(servers: ServerFactory) -> None:
    """A transaction that is passed on and refused for memory is passed on again, as a whole."""
    target = servers()
    client = target.client()
    sync = Sync(target, stream := Stream(), max_bytes=10_000)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        client.config_set("maxmemory", 1)
        stream.write("MULTI")
        for number in range(1000):
            stream.write("RPUSH", "l", f"{number}".ljust(50, "x"))
        stream.write("EXEC")
        await wait_for(lambda: sync.progress.lanes[0].retries >= 3)
        assert client.llen("l") == 0
        client.config_set("maxmemory", 0)
        await sync.caught_up()
    assert client.llen("l") == 1000


@both_loops
async def test_checkpoint_survives_flush_and_swap(target: Server) -> None:
    """FLUSHALL and SWAPDB in the stream neither lose the checkpoint nor leave a copy of it in another database."""
    sync = Sync(target, stream := Stream(piece_bytes=1024), max_bytes=5_000)
    fill = "x" * 100
    async with running(sync):
        for large in (False, True):
            stream.write("SELECT", 0)
            stream.write("SET", "zero", "0")
            stream.write("SELECT", 1)
            stream.write("SET", "one", "1")
            await sync.caught_up()
            if large:
                stream.write("MULTI")
                for _ in range(200):
                    stream.write("SET", "fill", fill)
            stream.write("SWAPDB", 0, 1)
            if large:
                stream.write("EXEC")
            await sync.caught_up()
            assert target.client().exists("one", KEY) == 2
            assert target.client(db=1).exists("zero") == 1
            assert target.client(db=1).exists(KEY) == 0
            stream.write("FLUSHALL")
            await sync.caught_up()
            assert data_of(target) == set()
    assert target.client(db=1).dbsize() == 0


@both_loops
async def test_checkpoint_key_written_by_the_stream(target: Server) -> None:
    """Whatever the stream does to a key of the checkpoint's name, our checkpoint stands afterwards."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        for command in (("SET", KEY, "x"), ("HSET", KEY, "f", "v"), ("PEXPIREAT", KEY, 1), ("RENAME", KEY, "k")):
            stream.write(*command)
            await sync.caught_up()
    assert sorted(target.client().hkeys(KEY)) == sorted(name.encode() for name in sync.start.fields()[::2])  # type: ignore[union-attr]


@both_loops
async def test_flushed_target_is_noticed(target: Server) -> None:
    """A target that somebody flushed is told as such with the next group, which does not take effect."""
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            target.client().flushall()
            stream.write("INCR", "n")

    with pytest.raises(TargetLost, match="checkpoint is gone"):
        await attempt()
    assert target.client().dbsize() == 0


@both_loops
async def test_second_writer_is_noticed(target: Server) -> None:
    """Two appliers on one link: the one that came second goes on, the first one stops without writing."""
    first, second = Sync(target, Stream()), Sync(target, Stream())

    async def takeover() -> None:
        async with running(first):
            first.stream.write("INCR", "first")
            await first.caught_up()
            second.start = first.applier.checkpoint
            second.stream.bytes[:] = first.stream.bytes
            second.stream.released = first.stream.end
            await stand(second.endpoint, second.epoch)
            task = asyncio.create_task(second.applier.run())
            await wait_for(second.applier.caught_up.is_set)
            second.stream.write("INCR", "second")
            await second.caught_up()
            first.stream.write("INCR", "first")
            second.stream.finish()
            await task

    with pytest.raises(TargetError, match="another portd"):
        await takeover()
    assert target.client().mget("first", "second") == [b"1", b"1"]


@both_loops
async def test_checkpoint_that_changed_since_it_was_read(target: Server) -> None:
    """An applier does not begin from a checkpoint that is not the one in the target."""
    for change in (Checkpoint(position=Position(REPLID, FIRST), epoch="other"), None):
        sync = Sync(target, Stream())
        found = change or Checkpoint(position=Position(REPLID, 5), epoch="before")
        await put_checkpoint(sync.endpoint, KEY, found, sync.epoch)
        with pytest.raises(TargetLost, match="changed by somebody else"):
            await sync.applier.run()
    target.client().delete(KEY)
    with pytest.raises(TargetLost, match="checkpoint is gone"):
        await Sync(target, Stream()).applier.run()


@both_loops
async def test_target_that_went_back_is_noticed(servers: ServerFactory) -> None:
    """A target restarted from an older file is told as such: what it lost has to come again from the source."""
    target = servers()
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            target.client().save()
            stream.write("INCR", "n")
            await sync.caught_up()
            target.restart(crash=True)
            await asyncio.Event().wait()  # the applier notices

    with pytest.raises(TargetLost, match="went back"):
        await attempt()


@both_loops
async def test_restarted_target_is_continued(servers: ServerFactory) -> None:
    """A target that comes back with all its data is continued where it is."""
    target = servers()
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().save()
        target.restart(crash=True)
        stream.write("INCR", "n")
        await sync.caught_up()
    assert target.client().get("n") == b"2"
    assert sync.progress.lanes[0].connection.connects > 1


@both_loops
async def test_commands_of_a_missing_database_land_nowhere(servers: ServerFactory) -> None:
    """A SELECT is tried before a transaction needs it; what is behind one that fails are dead letters, the rest goes on."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 4)
        stream.write("SET", "k", "*2\r\n$6\r\nSELECT\r\n$2\r\n77\r\n")  # a value that looks like a SELECT
        stream.write("select", 5)
        misplaced = stream.write("SET", "misplaced", "x")
        stream.write("SWAPDB", 0, 20)
        stream.write("SELECT", 0)
        stream.write("SET", "behind", "x")
        stream.write("SWAPDB", 1, 2)
        stream.write("SET", "last", "x")
        await sync.caught_up()
    found = {db: data_of(target, db) for db in range(5)}
    assert found == {0: {b"behind", b"last"}, 1: set(), 2: set(), 3: set(), 4: {b"k"}}
    assert [(letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
        (5, "SET", b"misplaced"),
        (5, "SWAPDB", b""),
    ]
    assert sync.letters.kept[0].offset == misplaced
    done = sync.progress.stream
    assert (done.commands_applied, done.commands_failed, done.commands_filtered) == (6, 2, 1)


@both_loops
async def test_a_checkpoint_in_a_missing_database(servers: ServerFactory) -> None:
    """A stream that goes on there, as after a snapshot that says so, writes nothing anywhere until another is selected."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream())
    sync.start = replace(sync.start, db=20)
    stream.rewind(FIRST, 20)
    async with running(sync):
        stream.write("SET", "k", "x")
        stream.write("FLUSHALL")
        await sync.caught_up()
        assert sync.applier.checkpoint.db == 20
        stream.write("SELECT", 1)
        stream.write("SET", "k", "x")
        await sync.caught_up()
    assert data_of(target) == set()
    assert target.client(db=1).get("k") == b"x"
    assert [letter.command for letter in sync.letters.kept] == ["SET"]


@both_loops
async def test_a_large_transaction_into_a_missing_database(servers: ServerFactory) -> None:
    """One that is passed on as it comes is begun again without it."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream(), max_bytes=20_000)
    async with running(sync):
        stream.write("MULTI")
        for number in range(30):
            stream.write("SET", f"k{number}", "x" * 2000)
        stream.write("SELECT", 7)
        stream.write("SET", "misplaced", "x" * 9000)
        stream.write("SELECT", 3)
        stream.write("SET", "k", "x")
        stream.write("EXEC")
        await sync.caught_up()
    assert len(data_of(target)) == 30
    assert target.client(db=3).keys("*") == [b"k"]
    assert [(letter.db, letter.key) for letter in sync.letters.kept] == [(7, b"misplaced")]


@both_loops
async def test_the_policy_to_stop_stops_before_a_missing_database(servers: ServerFactory) -> None:
    """What stands before it is applied and checkpointed, nothing behind it is."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream(databases=5, stops=True), stop=True)
    stream.write("SET", "before", "x")
    end = stream.end
    stream.write("SELECT", 5)
    stream.write("SET", "misplaced", "x")
    with pytest.raises(TargetRejected, match=r"db 5, key 'misplaced'"):
        async with running(sync):
            pass
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert end <= found.position.offset < stream.end
    assert data_of(target) == {b"before"}


@both_loops
async def test_a_target_that_comes_back_with_fewer_databases(servers: ServerFactory) -> None:
    """What was selected before has to be tried again."""
    target = servers(databases=16)
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 9)
        stream.write("SET", "k", "x")
        await sync.caught_up()
        target.client(db=9).flushdb()
        target.client().save()
        target.config["databases"] = 5
        target.restart(crash=True)
        stream.write("SET", "misplaced", "x")
        await sync.caught_up()
    assert data_of(target) == set()
    assert [(letter.db, letter.key) for letter in sync.letters.kept] == [(9, b"misplaced")]


@both_loops
async def test_corrupt_stream_ends_behind_the_last_good_command(target: Server) -> None:
    """Bytes that are not RESP end the applier; what was before them is applied and checkpointed."""
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            stream.bytes += request("INCR", "n") + b"garbage\r\n"
            stream.write("INCR", "n")

    with pytest.raises(DecodeError):
        await attempt()
    assert target.client().get("n") == b"2"


@both_loops
async def test_new_replid_is_checkpointed(target: Server) -> None:
    """After a failover of the source the checkpoint carries the new id."""
    sync = Sync(target, stream := Stream())
    other = REPLID[::-1]
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        sync.applier.adopt(other)
        stream.write("INCR", "n")
        await sync.caught_up()
        found = await read_checkpoint(sync.endpoint, KEY)
        assert found is not None
        assert found.position == Position(other, stream.end)
        sync.applier.adopt(REPLID)
        stream.write("PING")
        await sync.caught_up()


@both_loops
async def test_getack_calls_back(target: Server) -> None:
    """GETACK in the stream reaches whoever acknowledges."""
    sync = Sync(target, stream := Stream())
    calls: list[int] = []
    sync.applier.on_getack = lambda: calls.append(1)
    async with running(sync):
        stream.write("REPLCONF", "GETACK", "*")
        await sync.caught_up()
    assert calls == [1]


@both_loops
async def test_lag_is_told(target: Server) -> None:
    """While the target does not answer, the lag grows; afterwards the applier counts as caught up again."""
    target.client()
    sync = Sync(target, stream := Stream(), caught_up_seconds=0.05)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().client_pause(200)
        stream.write("INCR", "n")
        sync.progress.stream.read_offset = stream.end
        await wait_for(lambda: sync.progress.stream.waiting_seconds > 0.1)
        await sync.caught_up()
        assert sync.progress.stream.acknowledged_seconds > 0.1
        assert sync.progress.stream.waiting_seconds == 0
    assert sync.applier.statistics().in_flight_bytes == 0


@both_loops
@pytest.mark.parametrize("busy", [True, False])
async def test_lag_grows_while_the_target_is_gone(target: Server, *, busy: bool) -> None:
    """Neither a lost connection nor one that is refused makes what waits look young; bytes that come meanwhile count."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url)
        seen = sync.progress.stream
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            seen.read_offset = stream.end
            assert seen.waiting_seconds == 0
            if busy:  # it is in flight when the connection is lost
                proxy.half_open()
                stream.write("INCR", "n")
                seen.read_offset = stream.end
                await wait_for(lambda: seen.waiting_seconds > 0)
            await proxy.close()
            await wait_for(lambda: sync.progress.lanes[0].connection.losses["refused"] > 2)
            stream.write("INCR", "n")
            seen.read_offset = stream.end
            before = seen.waiting_seconds
            assert before > 0
            await wait_for(lambda: sync.progress.lanes[0].connection.losses["refused"] > 4)
            assert seen.waiting_seconds > before
            proxy.heal()
            await proxy.start()
            await sync.caught_up()
            assert seen.waiting_seconds == 0
    assert target.client().get("n") == (b"3" if busy else b"2")


@both_loops
async def test_cancelled_applier_leaves_no_connection(target: Server) -> None:
    """Cancelling at any moment ends the connection at once; another applier goes on exactly once."""
    sync = Sync(target, stream := Stream())
    for number in range(200):
        stream.write("RPUSH", "l", number)
    await sync.begin()
    checkpoint = sync.start
    for turns in range(1, 60, 4):
        step = Sync(target, stream, max_commands=7, epoch=sync.epoch)
        step.start = checkpoint
        task = asyncio.create_task(step.applier.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        found = await read_checkpoint(step.endpoint, KEY)
        assert found is not None
        checkpoint = found
        stream.released = FIRST
    last = Sync(target, stream, epoch=sync.epoch)
    last.start = checkpoint
    stream.finish()
    await last.applier.run()
    assert target.client().lrange("l", 0, -1) == [b"%d" % number for number in range(200)]


class Unaware(Scripts):
    """Puts nothing in front: as if the target had forgotten its scripts behind our question."""

    async def before(self, endpoint: Endpoint, pieces: Any) -> list[bytes]:
        """See `Scripts`."""
        del self, endpoint, pieces
        return []


@pytest.mark.parametrize("large", [False, True])
async def test_a_script_forgotten_at_the_last_moment_disowns_the_data(target: Server, *, large: bool) -> None:
    """What stands beside it in its transaction took effect, so nothing may go on from there: the checkpoint says so."""
    sync = Sync(target, Stream(), max_bytes=4096, scripts=Unaware(ScriptBook()))
    sync.stream.write("SET", "before", "1")
    sync.stream.write("MULTI")
    sync.stream.write("SET", "beside", "x" * (20_000 if large else 1))
    sync.stream.write("EVALSHA", "0" * 40, "1", "k")
    sync.stream.write("EXEC")
    with pytest.raises(ScriptMissing):
        async with running(sync):
            await asyncio.Event().wait()
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert found.state is State.SNAPSHOT
    assert found.position.offset == sync.stream.end
    assert sync.letters.kept == []
