"""The bound: whatever a snapshot or a stream holds, portd stays below the ceiling that its budget allows.

portd runs as a process with a budget of 9 MiB and a hard limit on its data (RLIMIT_DATA); the highest resident set
(VmHWM) is read while it still lives. Everything copied is several times larger than the budget.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from portd.config.settings import MAX_BUDGET_BYTES
from portd.memory.plan import PROCESS_BYTES
from tests import datasets
from tests.compare import assert_equal
from tests.hostile import HostileSource
from tests.process import Portd, streaming
from tests.servers import wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import ServerFactory
    from tests.servers import Server
    from tests.wire import Command

MIB = 1 << 20
FILLING = 40 * MIB  # zeros behind a length that lies
BUDGET = 9 * MIB
CEILING = PROCESS_BYTES + BUDGET  # of the resident set, as the memory plan promises
DATA_LIMIT = 120 * MIB  # of private writable memory, touched or not: 70 MiB of it are thread stacks and the interpreter
HUGE = {"proto_max_bulk_len": "1gb", "client_output_buffer_limit": "replica 0 0 0", "list_max_listpack_size": -1}


@pytest.fixture
def wide_source(servers: ServerFactory) -> Server:
    """A source that takes huge elements."""
    return servers(**HUGE)


@pytest.fixture
def wide_target(servers: ServerFactory) -> Server:
    """A target that takes huge elements."""
    return servers(**HUGE)


def bounded(source: Server | str, target: Server | str, **options: object) -> Portd:
    """A portd with the small budget; `__enter__` starts it, `limit` fences it."""
    return Portd(source, target, memory_budget="9MiB", memtrace=1, **options)


def limit(portd: Portd) -> None:
    """Forbids portd to have more private memory than `DATA_LIMIT`: an allocation beyond that fails in it."""
    resource.prlimit(portd.process.pid, resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))


def peak(portd: Portd) -> int:
    """Highest resident set of the process so far, in bytes; proc(5), status."""
    for line in Path(f"/proc/{portd.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("portd is gone")


def assert_bounded(portd: Portd) -> None:
    """The promise itself; ends portd in order."""
    highest = peak(portd)
    assert highest < CEILING, f"{highest / MIB:.1f} MiB of {CEILING / MIB:.0f} MiB\n{portd.log()}"
    assert portd.terminate() == os.EX_OK, portd.log()


def spool_options(spool: str) -> dict[str, object]:
    """The flag for a spool that may or may not use the disk."""
    return {"spool_dir": "off"} if spool == "off" else {}


@contextlib.contextmanager
def following_within_bound(source: Server, target: Server, spool: str) -> Iterator[Portd]:
    """What is written in the block arrives whole, within the bound.

    Args:
        source: where it is written.
        target: where it arrives.
        spool: `off` where nothing may be spilled to disk.
    """
    with bounded(source, target, **spool_options(spool)) as portd:
        portd.until(streaming)
        limit(portd)
        yield portd
        portd.until_applied(source)
        assert_bounded(portd)
    assert_equal(source, target)


def copied_within_bound(source: Server, target: Server, **options: object) -> None:
    """A snapshot arrives whole, within the bound."""
    with bounded(source, target, **options) as portd:
        limit(portd)
        portd.until(streaming)
        assert_bounded(portd)
    assert_equal(source, target)


# ------------------------------------------------------------------------------------------------- keys of many elements

MANY: dict[str, Callable[[Server], None]] = {
    "hash": lambda source: datasets.fill_big_hash(source, b"big", 700_000),
    "zset": lambda source: datasets.fill_big_zset(source, b"big", 500_000),
    "set": lambda source: datasets.fill_big_set(source, b"big", 700_000),
    "list": lambda source: datasets.fill_big_list(source, b"big", 900_000),
    "stream": lambda source: datasets.fill_big_stream(source, b"big", 300_000, value_bytes=60, pending=30_000),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", MANY)
def test_a_key_of_many_elements_is_never_held(kind: str, source: Server, target: Server) -> None:
    """A collection several times larger than the whole budget, beside ordinary keys."""
    datasets.fill_strings(source, 20_000)
    MANY[kind](source)
    copied_within_bound(source, target)


# --------------------------------------------------------------------------------------------------------- huge elements


@pytest.mark.parametrize("packable", [False, True], ids=["raw", "lzf"])
def test_a_huge_string_is_never_held(packable: object, wide_source: Server, wide_target: Server) -> None:
    """200 MB in one value, as it is and LZF-compressed."""
    datasets.fill_big_string(wide_source, b"big", 200 * MIB, packable=bool(packable))
    copied_within_bound(wide_source, wide_target)


@pytest.mark.parametrize("byte", [b"\xa5", None], ids=["lzf", "raw"])
def test_a_huge_hash_field_is_never_held(byte: bytes | None, wide_source: Server, wide_target: Server) -> None:
    """One field of 100 MB between small ones."""
    with Wire(wide_source) as wire:
        wire.call("HSET", "big", "a", "1", "huge", element(100 * MIB, byte), "z", "2")
    copied_within_bound(wide_source, wide_target)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "command",
    [("RPUSH", "big"), ("SADD", "big"), ("ZADD", "big", "1.5"), ("XADD", "big", "*", "field"), ("HSET", "big")],
    ids=lambda command: command[0].lower(),
)
def test_a_huge_element_is_never_held(command: tuple[str, ...], wide_source: Server, wide_target: Server) -> None:
    """60 MB in one list element, member, stream value or field name."""
    after = ("1",) if command[0] == "HSET" else ()
    with Wire(wide_source) as wire:
        wire.call(*command, element(60 * MIB, None), *after)
    copied_within_bound(wide_source, wide_target)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("byte", [b"\xa5", None], ids=["lzf", "raw"])
@pytest.mark.parametrize("kind", ["hash", "zset", "list", "stream"])
def test_a_huge_packed_value_is_never_held(kind: str, byte: bytes | None, servers: ServerFactory) -> None:
    """A listpack of 60 MB, which the snapshot carries as one string, compressed or not."""
    limits = {f"{each}_max_listpack_{what}": 1 << 30 for each in ("hash", "zset") for what in ("entries", "value")}
    source = servers(**(HUGE | limits | {"stream_node_max_bytes": 0, "stream_node_max_entries": 0}))
    with Wire(source) as wire:
        for number in range(60):
            value = element(MIB, byte) + b"%d" % number
            commands: dict[str, Command] = {
                "hash": ("HSET", "big", f"f{number}", value),
                "zset": ("ZADD", "big", number, value),
                "list": ("RPUSH", "big", value),
                "stream": ("XADD", "big", f"{number + 1}-1", "f", value),
            }
            wire.call(*commands[kind])
    copied_within_bound(source, servers(**HUGE))


def element(size: int, byte: bytes | None) -> bytes:
    """One byte many times, which LZF compresses, or bytes that it cannot."""
    if byte is not None:
        return byte * size
    block = os.urandom(MIB)
    return block * (size // MIB)


# ------------------------------------------------------------------------------------------------------------ the stream


@pytest.mark.parametrize("spool", ["disk", "off"])
def test_a_huge_command_is_never_held(spool: str, wide_source: Server, wide_target: Server) -> None:
    """A SET of 200 MB in the stream, with and without a disk to spill to."""
    with following_within_bound(wide_source, wide_target, spool), Wire(wide_source) as wire:
        wire.call("SET", "big", element(200 * MIB, None))


@pytest.mark.parametrize("spool", ["disk", "off"])
def test_a_huge_transaction_is_never_held(spool: str, wide_source: Server, wide_target: Server) -> None:
    """A MULTI of 100 MB is one transaction on the target too, and still never held."""
    value = element(MIB, None)
    with following_within_bound(wide_source, wide_target, spool), Wire(wide_source) as wire:
        wire.many([("MULTI",), *[("SET", f"key:{n}", value) for n in range(100)], ("INCR", "sum"), ("EXEC",)])
    assert wide_target.client().get("sum") == b"1"


@pytest.mark.parametrize("spool", ["disk", "off"])
def test_a_target_that_reads_nothing_costs_no_memory(spool: str, wide_source: Server, wide_target: Server) -> None:
    """The target stands still while the source writes 100 MB at full speed; nothing grows, the link survives."""
    with following_within_bound(wide_source, wide_target, spool) as portd:
        wide_target.signal(signal.SIGSTOP)
        datasets.fill_strings(wide_source, 50_000, 2000)
        if spool == "disk":
            portd.until(lambda status: status["stream"]["read_offset"] > 90 * MIB)
        wide_target.signal(signal.SIGCONT)
        portd.until_applied(wide_source)
        status = portd.status()
        assert status is not None
        assert status["source"]["connects"] == 1


def test_the_spool_keeps_the_link_of_an_impatient_source(servers: ServerFactory) -> None:
    """A source that drops a replica at 32 MB, or at 8 MB for 10 s, keeps ours although the target takes nothing."""
    source, target = servers(client_output_buffer_limit="replica 32mb 8mb 10"), servers()
    with bounded(source, target) as portd:
        portd.until(streaming)
        target.signal(signal.SIGSTOP)
        for _ in range(4):  # in pieces, so that no wait for a core can lose the link
            read = int(source.client().info("replication")["master_repl_offset"])
            datasets.fill_strings(source, 10_000, 2000)
            status = portd.until(lambda status, read=read: status["stream"]["read_offset"] > read + 19 * MIB)  # type: ignore[misc]
        assert status["stream"]["read_offset"] > 75 * MIB
        assert status["source"]["connects"] == 1
        target.signal(signal.SIGCONT)
        portd.until_applied(source)
        after = portd.status()
        assert after is not None
        assert after["source"]["connects"] == 1
        assert_bounded(portd)
    assert_equal(source, target)


@pytest.mark.parametrize("spool", ["disk", "off"])
def test_a_target_that_stands_still_in_the_snapshot_costs_no_memory(
    spool: str, wide_source: Server, wide_target: Server
) -> None:
    """The same while the snapshot is copied: it goes to disk, or stays in the source."""
    datasets.fill_strings(wide_source, 50_000, 2000)
    with bounded(wide_source, wide_target, **spool_options(spool)) as portd:
        limit(portd)
        portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)
        wide_target.signal(signal.SIGSTOP)
        if spool == "disk":
            portd.until(lambda status: status["snapshot"]["bytes_read"] > 90 * MIB)
        wide_target.signal(signal.SIGCONT)
        portd.until(streaming)
        assert_bounded(portd)
    assert_equal(wide_source, wide_target)


# ---------------------------------------------------------------------------------------------------- lengths that lie


def size(value: int) -> bytes:
    """A length in 64 bits; rdb.c:rdbSaveLen."""
    return b"\x81" + value.to_bytes(8, "big")


def lzf(packed: int, unpacked: int) -> bytes:
    """The head of a compressed string; rdb.c:rdbSaveLzfBlob."""
    return b"\xc3" + size(packed) + size(unpacked)


HEAD = b"REDIS0011\xfe\x00"  # magic, version, database 0
STRING, LIST, SET, ZSET, HASH, INTSET = b"\x00", b"\x01", b"\x02", b"\x05", b"\x04", b"\x0b"
HASH_LISTPACK, QUICKLIST, STREAM, MODULE, FUNCTION, AUX = b"\x10", b"\x12", b"\x15", b"\x07", b"\xf5", b"\xfa"
KEY = b"\x01k"
LIES = {
    "string of 2^63": STRING + KEY + size(1 << 63),
    "string of 1 TB": STRING + KEY + size(1 << 40),
    "key of 1 TB": STRING + size(1 << 40),
    "key of 400 MB": STRING + size(400 * MIB),
    "hash of 2^62 fields": HASH + KEY + size(1 << 62),
    "field of 1 TB": HASH + KEY + b"\x02" + size(1 << 40),
    "list of 2^62": LIST + KEY + size(1 << 62),
    "set of 2^62": SET + KEY + size(1 << 62),
    "zset of 2^62": ZSET + KEY + size(1 << 62),
    "lzf of 1 TB from 10 bytes": STRING + KEY + lzf(10, 1 << 40),
    "lzf of 10 bytes from 1 TB": STRING + KEY + lzf(1 << 40, 10),
    "lzf listpack of 1 TB": HASH_LISTPACK + KEY + lzf(1000, 1 << 40),
    "listpack of 1 TB": HASH_LISTPACK + KEY + size(1 << 40),
    "listpack that says 4 GB": HASH_LISTPACK + KEY + size(100) + b"\xff\xff\xff\xff\xff\xff",
    "intset of 2^32": INTSET + KEY + size(1 << 35) + b"\x08\x00\x00\x00\xff\xff\xff\xff",
    "quicklist of 2^62 nodes": QUICKLIST + KEY + size(1 << 62) + b"\x02" + size(1 << 40),
    "stream of 2^62 nodes": STREAM + KEY + size(1 << 62),
    "function of 1 TB": FUNCTION + size(1 << 40),
    "module value that never ends": MODULE + KEY + size(0x1234567890ABCDEF),
    "aux field of 1 TB": AUX + b"\x01a" + size(1 << 40),
    "aux field of 400 MB": AUX + b"\x01a" + size(400 * MIB),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("lie", LIES)
def test_a_length_that_lies_costs_no_memory(lie: str, target: Server) -> None:
    """An absurd length or count, then zeros without end: an error that says where, or no more than the bound."""
    with HostileSource(HEAD + LIES[lie], filler=FILLING) as source, bounded(source.url, target) as portd:
        limit(portd)
        swallowed_or_refused(portd, source)


@pytest.mark.parametrize(
    "stream",
    [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1099511627776\r\n",
        b"*3\r\n$3\r\nSET\r\n$99999999999999999999999\r\n",
        b"*1099511627776\r\n$3\r\nDEL\r\n",
        b"*1000000\r\n$3\r\nDEL\r\n" + b"$1\r\nk\r\n" * 900_000,
        b"$" + b"1" * 300_000,
        b"*2\r\n$1099511627776\r\n",
    ],
    ids=[
        "value of 1 TB",
        "value of 10^23",
        "command of 10^12 words",
        "10^6 words",
        "a line that never ends",
        "name of 1 TB",
    ],
)
def test_a_stream_that_lies_costs_no_memory(stream: bytes, target: Server) -> None:
    """The same for commands of the stream."""
    with HostileSource(stream=stream, filler=FILLING) as source, bounded(source.url, target) as portd:
        limit(portd)
        swallowed_or_refused(portd, source)


def test_snapshots_that_fail_do_not_add_up(target: Server) -> None:
    """What a failed try held is given back before the next one begins, with the default budget as with any."""
    cut = HEAD + HASH + KEY + b"\x02" + size(400 * MIB)
    with HostileSource(cut, filler=FILLING, hang_up=True) as source, Portd(source.url, target) as portd:
        wait_for_sync(lambda: source.syncs > 3, dump=portd.log)
        highest = peak(portd)
    assert highest < PROCESS_BYTES + MAX_BUDGET_BYTES, f"{highest / MIB:.1f} MiB"


def swallowed_or_refused(portd: Portd, source: HostileSource) -> None:
    """Waits until portd has ended with a decoding error, or has decoded all but the last pieces of what was sent."""
    highest = 0

    def decided() -> bool:
        nonlocal highest
        if portd.alive:
            with contextlib.suppress(OSError, AssertionError):  # it may end while it is looked at
                highest = max(highest, peak(portd))
        status = portd.status() if portd.alive and source.sent >= FILLING else None
        decoded = max(status["snapshot"]["bytes_decoded"], status["stream"]["decoded_offset"]) if status else 0
        return not portd.alive or decoded > FILLING - 2 * MIB

    wait_for_sync(decided, dump=lambda: f"{portd.status()}\n{portd.log()}")
    assert highest < CEILING, f"{highest / MIB:.1f} MiB\n{portd.log()}"
    if not portd.alive:
        assert portd.process.returncode == os.EX_DATAERR, portd.log()
        assert "offset" in portd.log()
    assert source.syncs == 1
    assert "MemoryError" not in portd.log()
