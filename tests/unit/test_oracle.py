"""The oracle is right: against real servers, against its own writer, and against known bytes."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datasets import fill_every_encoding
from tests.oracle import blobs, pack
from tests.oracle.model import (
    Entry,
    HashValue,
    ListValue,
    OracleError,
    SetValue,
    Snapshot,
    StreamValue,
    ZsetValue,
)
from tests.oracle.pack import Style, lzf_compress
from tests.oracle.primitives import Cursor, crc64, lzf_decompress
from tests.oracle.rdb import decode, decode_dump
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import REDIS_SINCE, snapshots
from tests.reading import (
    read_field_expiries,
    read_functions,
    read_hash,
    read_list,
    read_set,
    read_stream,
    read_stream_state,
    read_zset,
)
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def test_crc64_of_the_standard_check() -> None:
    """The checksum has the published check value."""
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x02abc", b"abc"),
        (b"\x00a\x20\x00", b"aaaa"),
        (b"\x00a\xe0\x02\x00", b"a" * 12),
        (b"\x02abc\x60\x02", b"abcabcab"),
    ],
)
def test_lzf_known_bytes(packed: bytes, plain: bytes) -> None:
    """Literals, short, long and overlapping matches."""
    assert lzf_decompress(packed, len(plain)) == plain


@given(st.one_of(st.binary(max_size=400), st.binary(min_size=1, max_size=5).map(lambda part: part * 300)))
@QUICK
def test_lzf_round_trip(plain: bytes) -> None:
    """What the writer packs the decoder unpacks."""
    assert lzf_decompress(lzf_compress(plain), len(plain)) == plain


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1000))
@QUICK
def test_length_round_trip(number: int, seed: int) -> None:
    """Every form of a length means the same."""
    assert Cursor(Style(seed).length(number)).length() == number


CELLS = st.lists(
    st.one_of(
        st.binary(max_size=80),
        st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: b"%d" % n),
        st.integers(-20, 300).map(lambda n: b"%d" % n),
        st.binary(min_size=4090, max_size=4100),
    ),
    max_size=12,
)


@given(CELLS, st.integers(0, 1000))
@QUICK
def test_containers_round_trip(cells: list[bytes], seed: int) -> None:
    """Every form of every container holds the same cells."""
    for style in (Style(), Style(seed)):
        assert blobs.ziplist(pack.ziplist(cells, style)) == cells
        assert blobs.texts(blobs.listpack(pack.listpack(list(cells), style))) == cells
        pairs = cells[: len(cells) // 2 * 2]
        assert blobs.zipmap(pack.zipmap(pairs, style)) == pairs


@given(snapshots(), st.one_of(st.none(), st.integers(0, 1 << 30)))
@settings(QUICK, max_examples=150)
def test_snapshot_round_trip(snapshot: Snapshot, seed: int | None) -> None:
    """The decoder reads what the writer wrote, of every version and in every style."""
    data = encode(snapshot, Style(seed))
    decoded = decode(data + b"behind")
    assert decoded.size == len(data)
    assert (decoded.functions, decoded.aux, decoded.module_aux) == (
        snapshot.functions,
        snapshot.aux,
        snapshot.module_aux,
    )
    for entry in decoded.entries:
        entry.start = entry.end = 0
    assert repr(decoded.entries) == repr(_in_order(snapshot.entries, decoded.entries))


def _in_order(wanted: list[Entry], decoded: list[Entry]) -> list[Entry]:
    """The wanted entries, sets in the order in which the decoded ones print."""
    for entry, other in zip(wanted, decoded, strict=True):
        if isinstance(entry.value, SetValue) and entry.value == other.value:
            entry.value = other.value
        if isinstance(entry.value, StreamValue) and isinstance(other.value, StreamValue):
            assert entry.value == other.value
            entry.value = other.value
        if isinstance(entry.value, HashValue) and isinstance(other.value, HashValue):
            assert entry.value.expires == other.value.expires
            entry.value.expires = other.value.expires
    return wanted


@pytest.mark.parametrize("cut", [1, 8, 9, 20, -1, -8, -9])
def test_truncated_snapshot_is_an_error(cut: int) -> None:
    """A cut snapshot does not decode."""
    data = encode(Snapshot(False, 11, [Entry(0, b"key", 0, b"value"), Entry(0, b"list", 1, ListValue([b"a", b"b"]))]))
    with pytest.raises(OracleError):
        decode(data[:cut])


def test_wrong_checksum_is_an_error_and_zero_is_not() -> None:
    """A checksum of zero means that the writer had none."""
    snapshot = Snapshot(False, 11, [Entry(0, b"key", 0, b"value")])
    assert decode(encode(snapshot, crc=0)).crc == 0
    with pytest.raises(OracleError, match="checksum"):
        decode(encode(snapshot, crc=1))


def test_every_type_is_decoded_and_written() -> None:
    """The strategies cover every type number of the format."""
    assert set(REDIS_SINCE) == set(range(34)) - {6, 8}


# ------------------------------------------------------------------------------------------------- real servers


def _ask(wire: Wire, entry: Entry) -> Any:
    """The value of a key as the server itself tells it."""
    if isinstance(entry.value, ListValue):
        return ListValue(read_list(wire, entry.key))
    if isinstance(entry.value, SetValue):
        return SetValue(set(read_set(wire, entry.key)))
    if isinstance(entry.value, ZsetValue):
        return ZsetValue(read_zset(wire, entry.key))
    if isinstance(entry.value, HashValue):
        return HashValue(
            read_hash(wire, entry.key), dict(read_field_expiries(wire, entry.key)) if entry.value.expires else {}
        )
    if isinstance(entry.value, StreamValue):
        return read_stream(wire, entry.key)
    return wire.call("GET", entry.key)


def _stream_entries(value: StreamValue) -> list[list[Any]]:
    return [[b"%d-%d" % entry_id, [cell for pair in fields for cell in pair]] for entry_id, fields in value.entries]


def _check_stream(wire: Wire, entry: Entry, value: StreamValue) -> None:
    state = read_stream_state(wire, entry.key, times=True)
    told: dict[tuple[Any, ...], Any] = {
        ("itself", b"length"): value.length,
        ("itself", b"last-generated-id"): b"%d-%d" % value.last_id,
    }
    if value.max_deleted_id is not None:
        told["itself", b"max-deleted-entry-id"] = b"%d-%d" % value.max_deleted_id
        told["itself", b"entries-added"] = value.entries_added
    for name, group in value.groups.items():
        path = ("group", name)
        told[path] = "exists"
        told[*path, b"last-delivered-id"] = b"%d-%d" % group.last_id
        told[*path, b"pel-count"] = len(group.pending)
        if group.entries_read is not None:
            told[*path, b"entries-read"] = None if group.entries_read < 0 else group.entries_read
        told[*path, "pending"] = {
            b"%d-%d" % entry_id: (pending.consumer, pending.delivered_ms, pending.deliveries)
            for entry_id, pending in group.pending.items()
        }
        for consumer, times in group.consumers.items():
            own = [pending for pending in group.pending.values() if pending.consumer == consumer]
            told[*path, "consumer", consumer] = len(own)
            told[*path, "consumer", consumer, b"seen-time"] = times.seen_ms
            if times.active_ms is not None:
                told[*path, "consumer", consumer, b"active-time"] = times.active_ms
    assert told == state


def test_real_file_equals_what_the_server_says(binary: Binary, servers: ServerFactory) -> None:
    """Every key of a real server's file decodes to what the server answers for it."""
    server = servers(binary)
    fill_every_encoding(server, seed=3, big_bytes=20_000)
    with Wire(server) as wire:
        wire.call("SAVE")
        snapshot = decode((server.directory / "dump.rdb").read_bytes())
        assert snapshot.version == binary.rdb_version
        seen = 0
        for entry in snapshot.entries:
            wire.call("SELECT", entry.db)
            told = _ask(wire, entry)
            if isinstance(entry.value, StreamValue):
                assert _stream_entries(entry.value) == told
                _check_stream(wire, entry, entry.value)
            else:
                assert entry.value == told, (entry.db, entry.key, entry.type)
            if binary.at_least(redis=(7, 0), valkey=(0,)):
                assert wire.call("PEXPIRETIME", entry.key) == (-1 if entry.expire_ms is None else entry.expire_ms)
            else:
                assert (wire.call("PTTL", entry.key) >= 0) == (entry.expire_ms is not None)
            seen += 1
        sizes = sum(each["keys"] for each in server.info("keyspace").values())
        assert seen == sizes
        if binary.at_least(redis=(7, 0), valkey=(0,)):
            assert sorted(snapshot.functions) == sorted(read_functions(wire).values())


def test_real_dump_payloads_decode(binary: Binary, servers: ServerFactory) -> None:
    """DUMP of every key decodes to the same as the file."""
    server = servers(binary)
    fill_every_encoding(server, seed=4, big_bytes=5_000)
    with Wire(server) as wire:
        wire.call("SAVE")
        snapshot = decode((server.directory / "dump.rdb").read_bytes())
        for entry in snapshot.entries:
            wire.call("SELECT", entry.db)
            dump = decode_dump(wire.call("DUMP", entry.key), valkey=snapshot.valkey)
            assert (dump.value, dump.type, dump.footer) == (entry.value, entry.type, snapshot.version), entry.key


def test_real_server_loads_what_the_writer_writes(binary: Binary, servers: ServerFactory) -> None:
    """A server that loads a written file saves one that decodes to the same keys."""
    server = servers(binary)
    valkey = binary.rdb_version == 80
    source = servers(binary)
    fill_every_encoding(source, seed=5, big_bytes=5_000)
    with Wire(source) as wire:
        wire.call("SAVE")
    wanted = decode((source.directory / "dump.rdb").read_bytes())
    written = encode(Snapshot(valkey, binary.rdb_version, wanted.entries, functions=wanted.functions), Style())
    server.terminate()
    (server.directory / "dump.rdb").write_bytes(written)
    server.start()
    with Wire(server) as wire:
        wire.call("SAVE")
    loaded = decode((server.directory / "dump.rdb").read_bytes())
    by_key = {(entry.db, entry.key): (entry.value, entry.expire_ms) for entry in loaded.entries}
    assert by_key == {(entry.db, entry.key): (entry.value, entry.expire_ms) for entry in wanted.entries}


def test_scores_survive_in_every_form() -> None:
    """Scores keep their last bit in binary and in text."""
    values = [0.1, 1e300, 5e-324, math.inf, -math.inf, 3.0, -0.5, 1 / 3, 2.0**53, struct.unpack("<d", b"\x01" * 8)[0]]
    scores = {b"m%d" % index: value for index, value in enumerate(values)}
    for kind in (3, 5, 12, 17):
        assert decode(encode(Snapshot(False, 11, [Entry(0, b"k", kind, ZsetValue(scores))]))).entries[
            0
        ].value == ZsetValue(scores)
