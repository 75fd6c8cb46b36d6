"""The writers on real targets: order, memory pressure, lost connections, refusals, big keys."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import PortdError, TargetBusy, TargetError, TargetLost, TargetRefused, TargetRejected
from portd.kernel.batch import CLOSE, OPEN, ORDERED, SPREAD, Batch
from portd.kernel.requests import split
from portd.model import Progress
from portd.net.endpoint import Endpoint, Tls
from portd.net.resp import request
from portd.pipeline import ByteBudget
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters
from portd.target.kept.epoch import Epoch
from portd.target.kept.eviction import Eviction, tag_of
from portd.target.snapshot import seats
from portd.target.snapshot.writers import Writers
from portd.target.snapshot.writing import WriterOptions
from tests.fencing import KEY, fall, stand
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.servers import Binary, Server, binaries, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    import redis

    from tests.conftest import ServerFactory

FAST = ConnectionOptions(retry_first_seconds=0.005, retry_limit_seconds=0.05)
FENCES = itertools.count(1)
LINK, TOKEN = "tests", "0123456789abcdef"  # of connections that an eviction ends


class Load:
    """Writers on a target, with what a test looks at.

    Attributes:
        eviction: how lost connections are ended; None makes everything go in transactions. Set by `mode`.
    """

    eviction: Eviction | None = Eviction(LINK, TOKEN)

    def __init__(self, url: str, *, at: str = "", budget: int = 1 << 22, stop: bool = False, **options: Any) -> None:
        self.progress = Progress()
        self.budget = ByteBudget(budget)
        self.letters = DeadLetters(self.progress, stop=stop)
        self.epoch = Epoch.of(KEY)
        self.direct = Endpoint.parse(at or url)  # where no proxy is in between
        self.writers = self.make(Endpoint.parse(url), **options)

    def make(self, endpoint: Endpoint, **options: Any) -> Writers:
        """Writers under the epoch of this load."""
        options = {"connection": FAST, "eviction": self.eviction, **options}
        options["connection"] = replace(options["connection"], tag=tag_of(LINK, TOKEN))
        wanted = WriterOptions(epoch=self.epoch, **options)
        return Writers(endpoint, self.budget, self.progress, self.letters, wanted)

    async def put(self, batches: Iterable[Batch]) -> None:
        """Puts batches as the decoder would."""
        for batch in batches:
            await self.writers.put(batch)


@pytest.fixture(params=["plain", "transactions"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bulk data goes outside of transactions, where connections can be ended, or all of it inside."""
    monkeypatch.setattr(Load, "eviction", Eviction(LINK, TOKEN) if request.param == "plain" else None)
    return str(request.param)


one_mode = pytest.mark.parametrize("mode", ["plain"], indirect=True)  # for what has nothing to do with it


@contextlib.asynccontextmanager
async def running(load: Load, seconds: float = 60) -> AsyncIterator[Load]:
    """Runs the writers; at the end everything must be acknowledged and nothing held."""
    await stand(load.direct, load.epoch)
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(load.writers.run(), name="writers")
            yield load
            await load.writers.flush()
            load.writers.close()
    except BaseExceptionGroup as errors:
        raise leaf(errors) from errors
    await fall(load.direct, load.epoch)
    assert load.budget.used == 0
    assert load.writers.statistics().in_flight_bytes == (0,) * len(load.progress.lanes)


def leaf(error: BaseException) -> BaseException:
    """The first error inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def whole(*commands: bytes, keys: int, db: int = 0) -> Batch:
    """A batch of whole keys."""
    return Batch(b"".join(commands), replies=len(commands), db=db, keys=keys)


def strings(count: int, *, batch: int = 50, size: int = 32, db: int = 0, prefix: str = "s") -> list[Batch]:
    """Batches of SETs whose values tell their keys."""
    return [
        whole(
            *(request("SET", f"{prefix}{i}", f"{i}".ljust(size, "x")) for i in range(start, min(count, start + batch))),
            keys=min(count, start + batch) - start,
            db=db,
        )
        for start in range(0, count, batch)
    ]


def chunks(words: list[bytes], per_command: int, per_batch: int) -> list[list[list[bytes]]]:
    """Batches of commands of words."""
    commands = [words[i : i + per_command] for i in range(0, len(words), per_command)]
    return [commands[i : i + per_batch] for i in range(0, len(commands), per_batch)]


def big_list(key: str, elements: list[bytes], *, db: int = 0, expire_ms: int = 0) -> list[Batch]:
    """A list as the decoder writes it: UNLINK, RPUSH chunks in order, the expiry."""
    fence = next(FENCES)
    name = key.encode()
    batches = [Batch(request("UNLINK", key), replies=1, db=db, kind=OPEN, fence=fence, key=name)]
    base = 0
    for group in chunks(elements, 20, 5):
        data = b"".join(request("RPUSH", key, *words) for words in group)
        batches.append(
            Batch(data, replies=len(group), db=db, kind=ORDERED, fence=fence, key=name, base=base, offset=base)
        )
        base += sum(map(len, group))
    close = request("PEXPIREAT", key, expire_ms) if expire_ms else b""
    batches.append(Batch(close, replies=bool(close), db=db, keys=1, kind=CLOSE, fence=fence, key=name))
    return batches


def big_set(key: str, members: list[bytes], *, db: int = 0, exists: bool = False) -> list[Batch]:
    """A set as the decoder writes it: UNLINK or EXISTS, SADD chunks that may go over any lane, an expiry."""
    fence = next(FENCES)
    name = key.encode()
    first = request("EXISTS" if exists else "UNLINK", key)
    batches = [Batch(first, replies=1, db=db, kind=OPEN, fence=fence, key=name)]
    for group in chunks(members, 20, 5):
        data = b"".join(request("SADD", key, *words) for words in group)
        batches.append(Batch(data, replies=len(group), db=db, kind=SPREAD, fence=fence, key=name))
    close = request("PEXPIREAT", key, 32503680000000)
    return [*batches, Batch(close, replies=1, db=db, keys=1, kind=CLOSE, fence=fence, key=name)]


def big_stream(key: str, entries: int) -> list[Batch]:
    """A stream with a group, as the decoder writes it."""
    fence = next(FENCES)
    name = key.encode()
    batches = [Batch(request("UNLINK", key), replies=1, db=0, kind=OPEN, fence=fence, key=name)]
    for start in range(1, entries + 1, 50):
        commands = [request("XADD", key, f"{i}-1", "n", i) for i in range(start, min(entries, start + 49) + 1)]
        batches.append(Batch(b"".join(commands), replies=len(commands), db=0, kind=ORDERED, fence=fence, key=name))
    tail = [request("XSETID", key, f"{entries}-5"), request("XGROUP", "CREATE", key, "g", "3-1")]
    tail += [request("XCLAIM", key, "g", "c", 0, "2-1", "FORCE", "JUSTID")]
    batches.append(Batch(b"".join(tail), replies=len(tail), db=0, kind=ORDERED, fence=fence, key=name))
    return [*batches, Batch(b"", replies=0, db=0, keys=1, kind=CLOSE, fence=fence, key=name)]


def in_parts(key: str, before: list[bytes], element: bytes, part: int = 1000) -> list[Batch]:
    """A list whose last element is sent in parts."""
    batches = big_list(key, before)
    fence, name = batches[0].fence, key.encode()
    data = request("RPUSH", key, element)
    pieces = [data[i : i + part] for i in range(0, len(data), part)]
    streamed = [
        Batch(
            piece,
            replies=int(piece is pieces[-1]),
            db=0,
            kind=ORDERED,
            fence=fence,
            key=name,
            base=len(before),
            part=piece is not pieces[-1],
        )
        for piece in pieces
    ]
    return [*batches[:-1], *streamed, batches[-1]]


def speaks_tls(binary: Binary) -> bool:
    """Whether a server is built with TLS: only such a one misses the certificate."""
    command = [binary.path, "--port", "0", "--tls-port", "1"]
    return b"tls-cert-file" in subprocess.run(command, capture_output=True, timeout=20, check=False).stdout


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1."""
    key, certificate = folder / "server.key", folder / "server.crt"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=portd",
    ]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return key, certificate


def commands_per_client(client: redis.Redis) -> int:
    """How many portd connections the target has."""
    return sum(each["name"].startswith("portd-") for each in client.client_list())


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4])
@both_loops
async def test_writes_every_kind_of_key(binary: Any, servers: ServerFactory, lanes: int) -> None:
    """Whole keys, lists in order, sets over all lanes, streams and parts all arrive, in every database."""
    target = servers(binary)
    elements = [b"e%d" % i for i in range(1000)]
    large = random.Random(1).randbytes(50_000)
    batches = [
        *strings(500, db=0),
        *big_list("list", elements, expire_ms=32503680000000),
        *strings(100, db=3, prefix="t"),
        *big_set("set", elements, db=3),
        *big_stream("stream", 333),
        *in_parts("parts", elements[:30], large),
        *strings(50, db=0, prefix="u"),
    ]
    async with running(Load(target.url, writers=lanes, budget=100_000)) as load:
        await load.put(batches)
    client, other = target.client(), target.client(db=3)
    assert client.lrange("list", 0, -1) == elements
    assert client.expiretime("list") == 32503680000 if target.binary.at_least(redis=(7, 0), valkey=(7, 2)) else True
    assert other.smembers("set") == set(elements)
    assert client.lrange("parts", 0, -1) == [*elements[:30], large]
    assert [entry[0] for entry in client.xrange("stream") or []] == [b"%d-1" % i for i in range(1, 334)]
    assert client.xpending("stream", "g")["pending"] == 1
    assert (client.dbsize(), other.dbsize()) == (500 + 50 + 3, 101)
    assert other.get("t99") == b"99".ljust(32, b"x")
    assert load.progress.snapshot.keys_applied == 500 + 50 + 100 + 4
    assert load.progress.snapshot.keys_failed == 0


@both_loops
async def test_waits_out_a_target_without_memory(servers: ServerFactory) -> None:
    """OOM is waited out: nothing is lost, doubled or reordered, and operators see what is going on."""
    target = servers()
    client = target.client()
    elements = [b"e%d" % i for i in range(2000)]
    batches = [*strings(300), *big_list("list", elements), *big_set("set", elements), *big_stream("stream", 200)]
    async with running(Load(target.url, writers=2)) as load:
        client.config_set("maxmemory", 1)
        await load.put(batches)
        await wait_for(lambda: sum(lane.retries for lane in load.progress.lanes) >= 6)
        assert "OOM" in load.progress.last_error
        assert client.keys() == [load.epoch.key.encode()]
        for _ in range(30):  # relief that comes and goes, in the middle of groups
            client.config_set("maxmemory", 0)
            await asyncio.sleep(0)
            client.config_set("maxmemory", 1)
            await asyncio.sleep(0.002)
        client.config_set("maxmemory", 0)
    assert client.lrange("list", 0, -1) == elements
    assert client.smembers("set") == set(elements)
    assert client.xlen("stream") == 200
    assert client.dbsize() == 303
    assert load.progress.snapshot.keys_applied == 303
    assert not load.progress.dead_letters


@pytest.mark.parametrize("lanes", [1, 3])
@both_loops
async def test_killed_connections_double_nothing(servers: ServerFactory, lanes: int) -> None:
    """CLIENT KILL again and again during a load: lists and streams hold every element once, in order."""
    target = servers()
    admin = target.client()
    elements = [b"e%d" % i for i in range(4000)]
    batches = [
        *strings(200),
        *(batch for i in range(4) for batch in big_list(f"list{i}", elements)),
        *big_stream("stream", 2000),
        *big_set("set", elements, db=1),
    ]
    rng = random.Random(7)
    async with running(Load(target.url, writers=lanes, budget=50_000, window_bytes=20_000)) as load:
        for batch in batches:
            await load.writers.put(batch)
            if rng.random() < 0.1:
                victims = [each["id"] for each in admin.client_list() if each["name"].startswith("portd-")]
                for victim in victims:
                    admin.client_kill_filter(_id=victim)
    for i in range(4):
        assert admin.lrange(f"list{i}", 0, -1) == elements
    assert [entry[0] for entry in admin.xrange("stream") or []] == [b"%d-1" % i for i in range(1, 2001)]
    assert admin.xpending("stream", "g")["pending"] == 1
    assert target.client(db=1).scard("set") == 4000
    assert sum(lane.connection.losses.total() for lane in load.progress.lanes) > 0
    assert load.progress.snapshot.keys_applied == 200 + 4 + 1 + 1
    assert not load.progress.dead_letters


@both_loops
async def test_cut_at_any_byte_doubles_nothing(target: Server) -> None:
    """A connection cut in the middle of commands or replies leaves a list as it should be."""
    elements = [b"e%d" % i for i in range(1500)]
    async with Proxy(target.port) as proxy:
        for cut in (50, 700, 3000, 12_345):
            proxy.to_server.cut_after = cut
            async with running(Load(proxy.url, at=target.url, writers=1)) as load:
                await load.put(big_list(f"list{cut}", elements))
                proxy.to_client.cut_after = cut // 100 + 1
            assert target.client().lrange(f"list{cut}", 0, -1) == elements
            assert load.progress.lanes[0].connection.connects > 1


@both_loops
async def test_refused_keys_become_dead_letters(target: Server) -> None:
    """WRONGTYPE and unknown commands fail their keys only; counts add up; replies keep their order."""
    client = target.client()
    batch = whole(
        request("SET", "a", "1"),
        request("SET", "str", "x"),
        request("RPUSH", "str", "secret-value"),
        request("NOSUCH", "k", "secret-value"),
        request("SET", "b", "2"),
        keys=4,
    )
    async with running(Load(target.url)) as load:
        await load.put([batch, *strings(10)])
    snapshot = load.progress.snapshot
    assert (snapshot.keys_applied, snapshot.keys_failed) == (12, 2)
    assert load.progress.dead_letters == {"WRONGTYPE": 1, "ERR": 1}
    assert (client.get("a"), client.get("b"), client.get("str")) == (b"1", b"2", b"x")
    assert "secret" not in load.progress.last_error


@both_loops
async def test_refused_chunk_fails_its_big_key_once(target: Server) -> None:
    """A big key with refused commands is one dead letter and one failed key; the rest of the group passes."""
    batches = big_list("list", [b"e%d" % i for i in range(300)])
    bad = batches[1]
    spoiled = Batch(
        bad.data + request("NOSUCH", "list") + request("SADD", "list", "x") + request("NOSUCH", "list"),
        replies=bad.replies + 3,
        db=0,
        kind=ORDERED,
        fence=bad.fence,
        key=b"list",
    )
    async with running(Load(target.url, writers=1)) as load:
        await load.put([batches[0], spoiled, *batches[2:], *strings(5)])
    assert target.client().llen("list") == 300
    assert load.progress.dead_letters.total() == 1
    assert (load.progress.snapshot.keys_applied, load.progress.snapshot.keys_failed) == (5, 1)


@both_loops
async def test_policy_stop_ends_with_the_first_refusal(target: Server) -> None:
    """With the policy stop the first refusal ends the writers with its name, key and reply."""
    batch = whole(request("SET", "str", "x"), request("SADD", "str", "v"), keys=1)
    with pytest.raises(TargetRejected, match=r"SADD .*key 'str'.*WRONGTYPE"):
        async with running(Load(target.url, stop=True)) as load:
            await load.put([batch])


@both_loops
async def test_existing_keys_are_left_alone(target: Server) -> None:
    """Skipping: BUSYKEY and an EXISTS that answers 1 leave the key as it is and count it as filtered."""
    client = target.client()
    client.set("theirs", "x")
    client.sadd("big", "theirs")
    dump = client.dump("theirs") or b""
    batch = whole(request("RESTORE", "theirs", 0, dump), request("RESTORE", "new", 0, dump), keys=2)
    members = [b"m%d" % i for i in range(500)]
    async with running(Load(target.url, skip_existing=True)) as load:
        await load.put([batch, *big_set("big", members, exists=True), *big_set("fresh", members, exists=True)])
    snapshot = load.progress.snapshot
    assert (snapshot.keys_applied, snapshot.keys_filtered, snapshot.keys_failed) == (2, 2, 0)
    assert (client.scard("big"), client.scard("fresh")) == (1, 500)


@both_loops
async def test_one_forbidden_key_does_not_take_its_mset_down(servers: ServerFactory) -> None:
    """NOPERM on one key of an MSET fails that key; the others are written."""
    target = servers()
    client = target.client()
    client.acl_setuser("porter", enabled=True, passwords=["+secret"], keys=["ok*", f"{KEY}*"], categories=["+@all"])
    batch = whole(request("MSET", "ok1", "1", "private", "2", "ok3", "3"), keys=3)
    async with running(Load(f"redis://porter:secret@127.0.0.1:{target.port}")) as load:
        await load.put([batch])
    assert client.mget("ok1", "private", "ok3") == [b"1", None, b"3"]
    assert (load.progress.snapshot.keys_applied, load.progress.snapshot.keys_failed) == (2, 1)


@one_mode
@both_loops
async def test_wrong_password_is_fatal(servers: ServerFactory) -> None:
    """Credentials that the target refuses end the writers at once, with a hint and without the password."""
    target = servers(requirepass="right")
    with pytest.raises(TargetRefused, match="credentials") as caught:
        async with running(Load(f"redis://:wrong@127.0.0.1:{target.port}")) as load:
            await load.put(strings(10))
    assert caught.value.hint
    assert "wrong" not in str(caught.value)


@both_loops
async def test_database_that_does_not_exist(servers: ServerFactory) -> None:
    """A target with fewer databases than the source is told as such."""
    target = servers(databases=2)
    with pytest.raises(TargetError, match="no database 5"):
        async with running(Load(target.url)) as load:
            await load.put(strings(10, db=5))


@one_mode
@both_loops
async def test_target_that_is_away_is_waited_for(servers: ServerFactory) -> None:
    """A target that refuses connections is tried again until it is there."""
    target = servers()
    async with Proxy(target.port) as proxy:
        proxy.refuse()
        async with running(Load(proxy.url, at=target.url)) as load:
            await load.put(strings(10))
            await wait_for(lambda: load.progress.lanes[0].connection.losses["refused"] >= 3)
            await proxy.start()
    assert target.client().dbsize() == 10


@both_loops
async def test_restarted_target_starts_the_snapshot_over(servers: ServerFactory) -> None:
    """A target that is another process than the one that acknowledged keys may have lost them: that is noticed."""
    target = servers()
    run_id = target.info("server")["run_id"]

    async def attempt() -> None:
        async with running(Load(target.url, run_id=run_id)) as load:
            await load.put(strings(10))
            await load.writers.flush()
            target.restart(crash=True)
            await load.put(strings(10))

    with pytest.raises(TargetLost, match="restarted") as caught:
        await attempt()
    assert caught.value.retriable


@both_loops
async def test_lost_epoch_starts_the_snapshot_over(servers: ServerFactory) -> None:
    """Where the run id is not told, an epoch that is gone says that the target lost its data."""
    target = servers()
    client = target.client()

    async def attempt() -> None:
        async with running(Load(target.url)) as load:
            await load.put(strings(10))
            await load.writers.flush()
            client.flushall()
            for each in client.client_list():
                if each["name"].startswith("portd-"):
                    client.client_kill_filter(_id=each["id"])
            await load.put(strings(10))

    with pytest.raises(TargetLost, match="epoch"):
        await attempt()


@both_loops
async def test_cut_inside_parts_starts_the_snapshot_over(target: Server) -> None:
    """A command that is passed on in parts and cut cannot be sent again: that is said, and can be tried again."""
    batches = in_parts("list", [b"a"], b"x" * 400_000, part=10_000)

    async def attempt(proxy: Proxy) -> None:
        async with running(Load(proxy.url, at=target.url, writers=1)) as load:
            await load.put(batches[:-5])
            await wait_for(lambda: load.budget.used <= 10_000)
            proxy.cut()
            await load.put(batches[-5:])

    async with Proxy(target.port) as proxy:
        with pytest.raises(TargetLost, match="larger than the memory") as caught:
            await attempt(proxy)
    assert caught.value.retriable
    assert target.client().llen("list") == 1


@both_loops
async def test_parts_refused_for_memory_start_the_snapshot_over(servers: ServerFactory) -> None:
    """OOM for a command whose bytes are gone is told as busy: the same snapshot cannot go on."""
    target = servers()
    client = target.client()
    batches = in_parts("list", [b"a"], b"x" * 100_000, part=10_000)

    async def attempt() -> None:
        async with running(Load(target.url, writers=1)) as load:
            await load.put(batches[:-5])
            await wait_for(lambda: load.budget.used <= 10_000)
            client.config_set("maxmemory", 1)
            await load.put(batches[-5:])

    with pytest.raises(TargetBusy, match="OOM") as caught:
        await attempt()
    assert caught.value.retriable


@both_loops
async def test_silent_target_is_given_up(target: Server) -> None:
    """A connection that carries nothing any more is replaced, and what it held is sent again."""
    async with Proxy(target.port) as proxy:
        load = Load(proxy.url, at=target.url)
        load.writers = load.make(replace(Endpoint.parse(proxy.url), connect_seconds=1, silence_seconds=0.2), writers=1)
        async with running(load):
            await load.put(strings(100))
            await load.writers.flush()
            proxy.half_open()
            await load.put(strings(100, prefix="t"))
            await wait_for(lambda: load.progress.lanes[0].connection.losses["silent"] >= 1)
            proxy.heal()
    assert target.client().dbsize() == 200


@one_mode
@both_loops
async def test_writes_over_tls(servers: ServerFactory, tmp_path: Path) -> None:
    """Over TLS everything arrives as well, a slow reader is waited for, and an idle connection is kept."""
    binary = next((each for each in binaries() if speaks_tls(each)), None)
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("no server with TLS, or no openssl")
    key, certificate = self_signed(tmp_path)
    port = free_port()
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(certificate)}
    target = servers(binary, tls_port=port, tls_auth_clients="no", **files)
    endpoint = Endpoint.parse(f"rediss://127.0.0.1:{port}", tls=Tls(ca=certificate))
    load = Load(target.url, budget=3_000_000)
    load.writers = load.make(replace(endpoint, silence_seconds=0.2))
    large = random.Random(1).randbytes(3_000_000)
    async with running(load):
        await load.put([*strings(300), *in_parts("parts", [b"a"], large, part=50_000)])
        await load.writers.flush()
        target.client().client_pause(100)
        await load.put(strings(40, batch=1, size=100_000, prefix="t"))
        await load.writers.flush()
        quiet_since = max(lane.connection.last_received_at for lane in load.progress.lanes)
        await wait_for(lambda: time.time() - quiet_since > 0.5)  # silence, if something were owed
        await load.put(strings(10, prefix="u"))
    assert target.client().lindex("parts", 1) == large
    assert target.client().dbsize() == 351
    assert [lane.connection.connects for lane in load.progress.lanes] == [1] * 4


@both_loops
async def test_readonly_target_is_reconnected(servers: ServerFactory) -> None:
    """A target that was demoted is asked again over new connections until it takes writes."""
    target = servers()
    client = target.client()
    async with running(Load(target.url, writers=1)) as load:
        client.replicaof("127.0.0.1", "1")  # nobody is there: what it holds stays
        await load.put(strings(10))
        await wait_for(lambda: load.progress.lanes[0].connection.losses["readonly"] >= 2)
        client.replicaof("NO", "ONE")
    assert client.dbsize() == 10


@both_loops
async def test_window_bounds_what_is_on_its_way(target: Server) -> None:
    """A target that does not answer gets no more than the window; the rest waits in the queue, within the budget."""
    client = target.client()
    load = Load(target.url, writers=1, window_bytes=10_000, budget=40_000)
    async with running(load):
        client.client_pause(300)
        putting = asyncio.create_task(load.put(strings(2000)))
        await wait_for(lambda: load.budget.waiting == 1)
        assert load.progress.lanes[0].in_flight_bytes <= 10_000
        assert load.budget.used <= 40_000
        await putting
    assert client.dbsize() == 2000


@both_loops
async def test_cancelled_writers_leave_no_connection(target: Server) -> None:
    """Cancelling the writers at any moment ends every connection at once."""
    client = target.client()
    for turns in range(0, 40, 3):
        load = Load(target.url, writers=3, budget=20_000)
        await stand(load.direct, load.epoch)
        task = asyncio.create_task(load.writers.run())
        putting = asyncio.create_task(load.put(big_list("list", [b"x" * 50] * 5000)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        putting.cancel()
        for ended in await asyncio.gather(task, putting, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
    await wait_for(lambda: commands_per_client(client) == 0)


@one_mode
@both_loops
async def test_dead_connection_never_hides_an_error(target: Server) -> None:
    """Replies that are not RESP end the writers with a typed error."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(PortdError, match="does not speak RESP"):
            async with running(Load(f"redis://127.0.0.1:{port}", writers=1)) as load:
                await load.put(strings(10))
    finally:
        server.close()
        await server.wait_closed()


@one_mode
def test_batches_of_these_tests_are_well_formed() -> None:
    """The batches used here keep the decoder's contract: replies equal commands, parts join to one command."""
    for batch in (*strings(120), *big_list("l", [b"x"] * 333), *big_set("s", [b"x"] * 99), *big_stream("x", 120)):
        assert len(list(split(batch.data))) == batch.replies
    parts = in_parts("p", [b"a"], b"x" * 2500)
    assert len(list(split(b"".join(batch.data for batch in parts[2:-1])))) == 1


@both_loops
async def test_two_lanes_work_for_a_near_target_and_more_for_a_far_one(
    target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other clients of a near target wait for two connections of ours at most; a far one is reached over several."""
    with monkeypatch.context() as busy:  # a machine that is busy makes a target seem far
        busy.setattr(seats, "NEAR_SECONDS", 60.0)
        load = Load(target.url)
        async with running(load):
            await load.put(strings(5000))
    assert sum(lane.replies > 0 for lane in load.progress.lanes) <= 2
    async with Proxy(target.port) as proxy:
        proxy.to_server.delay = proxy.to_client.delay = 0.02
        load = Load(proxy.url, at=target.url, window_bytes=5000)
        async with running(load):
            await load.put(strings(3000))
    assert sum(lane.replies > 0 for lane in load.progress.lanes) > 2
    assert target.client().dbsize() == 5000
