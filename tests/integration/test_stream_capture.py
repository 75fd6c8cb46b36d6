"""The stream splitter on what real servers send: captured as a replica, compared with the oracle, applied and compared."""

from __future__ import annotations

import random
import socket
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest

from portd.kernel.stream import Piece, StreamSplitter
from tests import compare as live
from tests.datasets import fill_every_encoding
from tests.oracle.resp import Follower, Oracle, compare, drain, pack
from tests.servers import PATIENCE_SECONDS, wait_for_sync
from tests.traffic import Workload
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary, Server

ACK_SECONDS = 0.1  # a diskless source streams nothing before an ACK, and may overlook the first
HOUR_MS = 3_600_000
EXPIRY_SLACK_MS = 3000  # what a source counted from its own clock arrives a little later


@dataclass
class Capture:
    """Follows a source as a replica does and keeps its stream.

    Attributes:
        offset: replication offset of the byte before the first one kept.
        chunks: bytes with the unix time in ms at which they were received.
    """

    source: Server
    offset: int = 0
    chunks: list[tuple[bytes, int]] = field(default_factory=list)
    size: int = 0

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self.source.port), timeout=PATIENCE_SECONDS)
        self._rest = b""
        self._socket.sendall(pack([b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]))
        assert self._line() == b"+OK"
        self._socket.sendall(pack([b"REPLCONF", b"version", b"9.1.0"]))  # only Valkey knows it
        self._line()
        self._socket.sendall(pack([b"PSYNC", b"?", b"-1"]))
        self.offset = int(self._line().split()[2])
        self._skip_snapshot(self._line())
        self._ack()
        self._keep(self._rest)
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        assert data, "the source closed the link"
        return data

    def _line(self) -> bytes:
        """The next line that is not a keepalive."""
        while True:
            self._rest = self._rest.lstrip(b"\n")
            line, end, rest = self._rest.partition(b"\r\n")
            if end:
                self._rest = rest
                return line
            self._rest += self._more()

    def _skip_snapshot(self, announced: bytes) -> None:
        mark = announced.removeprefix(b"$EOF:") if announced.startswith(b"$EOF:") else None
        size = 0 if mark else int(announced[1:])
        while len(self._rest) < size or (mark and not self._rest.endswith(mark)):
            self._rest += self._more()
        self._rest = self._rest[size:] if mark is None else b""

    def _ack(self) -> None:
        self._socket.sendall(pack([b"REPLCONF", b"ACK", b"%d" % (self.offset + self.size)]))

    def _keep(self, data: bytes) -> None:
        if data:
            self.chunks.append((data, time.time_ns() // 1_000_000))
            self.size += len(data)

    def read(self) -> None:
        """Keeps what the source has sent up to now; all that was executed before the call is there then."""
        until = int(self.source.info("replication")["master_repl_offset"]) - self.offset
        deadline = time.monotonic() + PATIENCE_SECONDS
        self._socket.settimeout(ACK_SECONDS)
        while self.size < until:
            assert time.monotonic() < deadline, f"{self.size} of {until} bytes came"
            try:
                self._keep(self._more())
            except TimeoutError:
                self._ack()

    @property
    def data(self) -> bytes:
        """The stream."""
        return b"".join(data for data, _ in self.chunks)

    def received_at(self, offset: int) -> int:
        """Unix time in ms at which the byte with that replication offset came."""
        starts, at = [], self.offset + 1
        for data, _ in self.chunks:
            starts.append(at)
            at += len(data)
        return self.chunks[bisect_right(starts, offset) - 1][1]


SPECIAL: list[tuple[str, ...]] = [
    ("SETEX", "special:setex", "5000", "v"),
    ("PSETEX", "special:psetex", "5000000", "v"),
    ("SET", "special:ex", "v", "EX", "5000"),
    ("SET", "special:px", "v", "PX", "5000000", "NX"),
    ("EXPIRE", "special:ex", "6000"),
    ("PEXPIRE", "special:px", "6000000"),
    ("GETEX", "special:setex", "EX", "7000"),
    ("GETEX", "special:psetex", "PERSIST"),
    ("SET", "special:keep", "v"),
    ("SET", "special:keep", "v", "KEEPTTL"),
    ("SET", "special:large", "v" * 300_000, "EX", "8000"),
    ("SETEX", "special:larger", "8000", "v" * 700_000),
    ("PUBLISH", "__sentinel__:hello", "127.0.0.1,26379,x"),
    ("PUBLISH", "news", "text"),
    ("SCRIPT", "LOAD", "return 1"),
    ("MULTI",),
    ("SET", "special:multi", "v" * 300_000),
    ("SETEX", "special:multi:ex", "5000", "v"),
    ("SELECT", "5"),
    ("RPUSH", "special:multi", *["element"] * 30_000),
    ("EXEC",),
    ("SWAPDB", "5", "6"),
    ("SELECT", "0"),
]


LIVES_SHORT = {f"live:{kind}:{i}" for kind in ("expiring", "expiring-list") for i in range(50)}  # gone when applied


def write(source: Server, seed: int) -> None:
    """Everything that a server can hold, then commands that depend on each other, then the odd ones."""
    fill_every_encoding(source, seed, big_bytes=50_000)
    workload = Workload(source.binary, seed=seed, swapdb=True, flushdb=True)
    with Wire(source) as wire:
        wire.many(workload.setup(), errors=True)
        for _ in range(40):
            together = [command for _ in range(50) for command in workload.next()]
            wire.many([command for command in together if not LIVES_SHORT & set(command)], errors=True)
    write_special(source)


def write_special(source: Server) -> None:
    """Commands that do not go on as they came, and large ones."""
    with Wire(source) as wire:
        wire.many(SPECIAL, errors=True)
        for name in ("special:large", "special:keep"):
            payload = wire.call("DUMP", name)
            wire.call("RESTORE", f"{name}:restored", 9_000_000, payload)
            wire.call("RESTORE", f"{name}:restored", 9_500_000, payload, "REPLACE")


def apply(pieces: list[Piece], target: Server) -> None:
    """Executes all pieces; no reply may be an error."""
    with Wire(target) as wire:
        wire.load([(piece.data, piece.replies) for piece in pieces])


def split(capture: Capture, seed: int, piece_bytes: int, *, pxat: bool = True) -> list[Piece]:
    """Feeds the stream in random cuts, checks it against the oracle and returns the pieces."""
    rng = random.Random(seed)
    splitter = StreamSplitter(capture.offset, -1, piece_bytes=piece_bytes, pxat=pxat, unlink=True)
    follower = Follower(splitter, 1 << 20, 1 << 20)
    for data, now_ms in capture.chunks:
        rest = data
        while rest:
            size = rng.choice([1, 10, 1000, 1 << 16])
            follower.feed(rest[:size], now_ms)
            rest = rest[size:]
    oracle = Oracle(capture.offset, -1, piece_bytes=piece_bytes, pxat=pxat, unlink=True, now_ms=capture.received_at)
    compare(oracle.expect(capture.data), follower.outcome)
    assert follower.outcome.end_offset == capture.offset + capture.size
    assert follower.outcome.boundaries.keys() >= {capture.offset + capture.size}
    return follower.pieces


def expiries(server: Server) -> dict[tuple[int, bytes], int]:
    """When keys expire, by database and key; unix ms, -1 never."""
    found: dict[tuple[int, bytes], int] = {}
    for db in range(16):
        with Wire(server, db) as wire:
            keys = wire.call("KEYS", "*")
            ttls = wire.many([("PTTL", key) for key in keys])
            now_ms = time.time_ns() // 1_000_000
            found |= {(db, key): ttl + now_ms if ttl >= 0 else ttl for key, ttl in zip(keys, ttls, strict=True)}
    return found


def counts_relative(binary: Binary) -> bool:
    """Whether the server's stream carries expiries that count from their execution."""
    return not binary.at_least(redis=(7, 0), valkey=(0,))


def knows_pxat(binary: Binary) -> bool:
    """Whether the server's SET takes an absolute time."""
    return binary.at_least(redis=(6, 2), valkey=(0,))


def need_a_target(binary: Binary) -> None:
    """Skips a server that is none for portd."""
    if not binary.at_least(redis=(4, 0), valkey=(0,)):
        pytest.skip("targets are Redis 4.0 or later")


@pytest.mark.parametrize("piece_bytes", [256 * 1024, 4096])
def test_a_captured_stream_makes_the_target_what_a_replica_is(
    binary: Binary, servers: ServerFactory, piece_bytes: int
) -> None:
    """What a real source sends is split as the oracle says, and applied it makes a server what a replica becomes."""
    need_a_target(binary)
    source, replica, target = servers(binary), servers(binary), servers(binary)
    replica.replicate(source)
    wait_for_sync(lambda: replica.info("replication")["master_link_status"] == "up", PATIENCE_SECONDS)
    with Capture(source) as capture:
        write(source, seed=piece_bytes)
        capture.read()
        end = capture.offset + capture.size
        wait_for_sync(lambda: replica.info("replication")["master_repl_offset"] >= end, PATIENCE_SECONDS)
    apply(split(capture, piece_bytes, piece_bytes, pxat=knows_pxat(binary)), target)
    replica.client().replicaof("NO", "ONE")
    differences = live.compare(replica, target)
    if counts_relative(binary):  # each from its own receipt
        differences = [each for each in differences if "expires at" not in each]
    assert differences == []
    have, want = expiries(target), expiries(replica)
    assert have.keys() == want.keys()
    assert [key for key, at in want.items() if abs(have[key] - at) > EXPIRY_SLACK_MS] == []


@pytest.mark.parametrize("pxat", [True, False])
def test_lives_end_when_the_source_says_however_late_they_are_applied(
    binary: Binary,
    servers: ServerFactory,
    pxat: bool,  # noqa: FBT001
) -> None:
    """An expiry counts from when it was received, not from when it is applied, for targets with PXAT and without."""
    need_a_target(binary)
    if pxat and not knows_pxat(binary):
        pytest.skip("the target knows no PXAT")
    source, target = servers(binary), servers(binary)
    with Capture(source) as capture:
        write_special(source)
        capture.read()
    capture.chunks = [(data, now_ms - HOUR_MS) for data, now_ms in capture.chunks]  # as if received an hour ago
    apply(split(capture, 2, 64 * 1024, pxat=pxat), target)
    earlier = HOUR_MS if counts_relative(binary) else 0
    have, want = expiries(target), expiries(source)
    assert have.keys() == want.keys()
    assert sum(at > 0 for at in want.values()) >= 7
    for key, at in want.items():
        assert abs(have[key] - (at - earlier if at > 0 else at)) < EXPIRY_SLACK_MS, key


def test_getack_and_ping_of_a_source_are_dropped_and_count_in_offsets(servers: ServerFactory) -> None:
    """What a source asks its replicas goes no further, but its bytes belong to the offsets."""
    source = servers(repl_ping_replica_period=1)
    with Capture(source) as capture, Wire(source) as wire:
        wire.call("SET", "k", "v")
        wire.call("WAIT", 1, 100)  # asks all replicas for an ACK
        capture.read()
    splitter = StreamSplitter(capture.offset, -1)
    splitter.feed(capture.data, 0)
    pieces = drain(splitter)
    assert any(piece.getack for piece in pieces)
    assert sum(piece.filtered for piece in pieces) >= 1
    assert b"GETACK" in capture.data
    assert b"REPLCONF" not in b"".join(piece.data for piece in pieces)
    assert pieces[-1].end_offset == capture.offset + capture.size
