"""Digests of the kernel: independent of encoding, order and split; different for whatever differs."""

from __future__ import annotations

import dataclasses
import math
import struct
import time
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from portd.errors import DecodeError
from portd.kernel import digest
from portd.kernel.digest import DIFFERENCE_BYTES, NAMES, RECORD_BYTES, DigestHandler, compare, digest_bytes
from portd.kernel.snapshot import SnapshotDecoder
from tests.oracle.model import Entry, HashValue, ListValue, SetValue, Snapshot, StreamValue, Value, ZsetValue
from tests.oracle.pack import Style
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import snapshots

RAW_TYPES = (7, 33)  # nothing but their bytes is known, so their form counts
FAR_MS = 1 << 42
EXAMPLES = settings(
    max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
STYLES = st.one_of(st.none(), st.integers(0, 1 << 30))


class Digested:
    """What a handler made of a snapshot."""

    def __init__(self, data: bytes, *, step: int = 1 << 16, chunk_bytes: int = 1 << 20, **options: Any) -> None:
        handler = DigestHandler(**({"seed": b"seed"} | options))
        decoder = SnapshotDecoder(handler, chunk_bytes=chunk_bytes)
        self.buckets: dict[int, bytearray] = {}
        self.names = bytearray()
        view = memoryview(data)
        while view:
            view = view[decoder.feed(view[:step]) :]
            while (output := decoder.next_output()) is not None:
                bucket, piece = cast("tuple[int, bytes]", output)
                if bucket == NAMES:
                    self.names += piece
                else:
                    self.buckets.setdefault(bucket, bytearray()).extend(piece)
        decoder.finish()
        self.statistics: dict[str, int] = decoder.statistics()

    def name(self, offset: int) -> tuple[int, bytes]:
        """Database and name at an offset."""
        db, size = struct.unpack_from("<II", self.names, offset)
        return db, bytes(self.names[offset + 8 : offset + 8 + size])


def difference(first: Digested, second: Digested) -> dict[tuple[int, bytes], int]:
    """What differs, by key."""
    found = {}
    for bucket in sorted(first.buckets.keys() | second.buckets.keys()):
        _, differences = compare(first.buckets.get(bucket, bytearray()), second.buckets.get(bucket, bytearray()))
        assert len(differences) % DIFFERENCE_BYTES == 0
        for kinds, here, there, _, _ in struct.iter_unpack("<5Q", differences):
            found[first.name(here) if here != (1 << 64) - 1 else second.name(there)] = kinds
    return found


def of(kind: int, value: Value, *, version: int = 80, style: int | None = None, **entry: Any) -> Digested:
    """The digest of one key."""
    return Digested(encode(_one(kind, value, version=version, **entry), Style(style)))


def _one(kind: int, value: Value, *, version: int = 80, **entry: Any) -> Snapshot:
    """A snapshot of one key."""
    snapshot = Snapshot(version >= 80, version)
    snapshot.entries = [Entry(0, b"k", kind, value, **entry)]
    return snapshot


def without_raw(snapshot: Snapshot) -> Snapshot:
    """The snapshot without values whose bytes are compared as they are."""
    entries = [entry for entry in snapshot.entries if entry.type not in RAW_TYPES]
    return dataclasses.replace(snapshot, entries=entries)


@given(snapshots(), STYLES, STYLES, st.integers(1, 300), st.sampled_from([0, 4]))
@EXAMPLES
def test_the_form_does_not_count(
    snapshot: Snapshot, first: int | None, second: int | None, step: int, bits: int
) -> None:
    """Two ways to write the same values have the same digests, however the bytes are split."""
    snapshot = without_raw(snapshot)
    one = Digested(encode(snapshot, Style(first)), bucket_bits=bits)
    other = Digested(encode(snapshot, Style(second)), bucket_bits=bits, step=step)
    assert difference(one, other) == {}


@pytest.mark.parametrize(
    "score", [0.1, -0.0, 1e-7, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, -1.5, math.inf, -math.inf, 3.0]
)
def test_scores_as_text_and_as_numbers_are_one_score(score: float) -> None:
    """A sorted set has one digest in each form that servers wrote: text, doubles, ziplist and listpack; long members too."""
    for member in (b"m", b"m" * 2000):
        value = ZsetValue({member: score, b"other": 1.25})
        forms = [of(kind, value) for kind in (3, 5, 12, 17)]
        forms += [Digested(encode(_one(5, value)), chunk_bytes=100), Digested(encode(_one(3, value)), chunk_bytes=100)]
        assert all(difference(forms[0], other) == {} for other in forms[1:])
        assert difference(forms[0], of(5, ZsetValue({member: score, b"other": math.nextafter(1.25, 2)})))


@given(snapshots(), STYLES)
@EXAMPLES
def test_items_too_long_to_hold_count_alike(snapshot: Snapshot, style: int | None) -> None:
    """A value told in parts has the digest of the whole one."""
    snapshot = without_raw(snapshot)
    snapshot.entries = [entry for entry in snapshot.entries if len(entry.key) <= 64]
    data = encode(snapshot, Style(style))
    try:
        tiny = Digested(data, chunk_bytes=100)
    except DecodeError:  # names of groups, templates and the like have to fit
        assume(False)
    assume(not tiny.statistics["keys_unreadable"])
    assert difference(tiny, Digested(data)) == {}


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (0, b"a", b"b"),
        (0, b"", b"\0"),
        (0, b"a" * 16, b"a" * 32),
        (1, ListValue([b"a", b"b"]), ListValue([b"b", b"a"])),
        (1, ListValue([b"ab", b"c"]), ListValue([b"a", b"bc"])),
        (1, ListValue([b"a"]), ListValue([b"a", b"a"])),
        (2, SetValue({b"a"}), SetValue({b"a", b"b"})),
        (5, ZsetValue({b"a": 1.0}), ZsetValue({b"a": math.nextafter(1.0, 2)})),
        (5, ZsetValue({b"a": 1.0, b"b": 2.0}), ZsetValue({b"a": 2.0, b"b": 1.0})),
        (4, HashValue({b"a": b"b"}), HashValue({b"b": b"a"})),
        (4, HashValue({b"a": b"1", b"b": b"2"}), HashValue({b"a": b"2", b"b": b"1"})),
    ],
)
def test_every_value_counts(kind: int, first: Value, second: Value) -> None:
    """Values that differ in anything have different digests."""
    assert difference(of(kind, first), of(kind, second)) == {(0, b"k"): digest.VALUE}
    assert difference(of(kind, first), of(kind, first, style=7)) == {}


def test_kinds_of_difference() -> None:
    """Missing, extra, type, expiry and expiry of fields are told apart."""
    plain = of(0, b"v")
    nothing = Digested(encode(Snapshot(True, 80)))
    assert difference(plain, nothing) == {(0, b"k"): digest.MISSING}
    assert difference(nothing, plain) == {(0, b"k"): digest.EXTRA}
    assert difference(plain, of(1, ListValue([b"v"]))) == {(0, b"k"): digest.TYPE}
    timed = of(0, b"v", expire_ms=FAR_MS)
    assert difference(plain, timed) == {(0, b"k"): digest.TTL}
    assert difference(timed, of(0, b"v", expire_ms=FAR_MS + 1)) == {(0, b"k"): digest.TTL}
    assert difference(of(0, b"w"), timed) == {(0, b"k"): digest.TTL | digest.VALUE}
    hashes = [of(22, HashValue({b"f": b"v"}, {b"f": at} if at else {})) for at in (0, FAR_MS, FAR_MS + 1)]
    assert difference(hashes[0], hashes[1]) == {(0, b"k"): digest.FIELD_TTL}
    assert difference(hashes[1], hashes[2]) == {(0, b"k"): digest.FIELD_TTL}


def test_a_tolerance_for_expiry_times() -> None:
    """Where times are not exact, close ones are equal, and having none is still not having a far one."""
    records = [of(0, b"v", expire_ms=at).buckets[0] for at in (FAR_MS, FAR_MS + 100, None)]
    assert compare(bytearray(records[0]), bytearray(records[1]), 100) == (1, b"")
    assert compare(bytearray(records[0]), bytearray(records[1]), 99)[0] == 0
    assert compare(bytearray(records[0]), bytearray(records[2]), 1 << 62)[0] == 0


def test_the_type_number_does_not_count() -> None:
    """The same hash as type 4 and as a type with field expiries, the same set in order and reversed."""
    fields = {b"f": b"v", b"g": b"w"}
    assert difference(of(4, HashValue(fields)), of(22, HashValue(fields))) == {}
    members = [b"%d" % n for n in range(50)]
    one, other = (of(2, SetValue(cast("set[bytes]", dict.fromkeys(order)))) for order in (members, members[::-1]))
    assert difference(one, other) == {}


def test_what_has_expired_does_not_exist() -> None:
    """Expired keys and fields are left out; a hash whose fields are all gone is no key."""
    now_ms = time.time_ns() // 1_000_000
    assert of(0, b"v", expire_ms=now_ms - 1).statistics["keys_expired"] == 1
    half = of(22, HashValue({b"f": b"v", b"g": b"w"}, {b"f": now_ms - 1000}))
    assert difference(half, of(4, HashValue({b"g": b"w"}))) == {}
    assert of(22, HashValue({b"f": b"v"}, {b"f": now_ms - 1000})).buckets == {}


def test_counters_of_streams_count_on_demand() -> None:
    """Servers before 7.0 do not have them: then neither end's counts."""
    base = StreamValue([((1, 1), [(b"f", b"v")])], 1, (1, 1), first_id=(1, 1), max_deleted_id=(0, 0), entries_added=1)
    more = dataclasses.replace(base, entries_added=7)

    def of_stream(value: StreamValue, *, counters: bool) -> Digested:
        snapshot = Snapshot(True, 80)
        snapshot.entries = [Entry(0, b"k", 21, value)]
        return Digested(encode(snapshot), stream_counters=counters)

    assert difference(of_stream(base, counters=True), of_stream(more, counters=True)) == {(0, b"k"): digest.VALUE}
    assert difference(of_stream(base, counters=False), of_stream(more, counters=False)) == {}


def test_databases_and_ignored_keys() -> None:
    """A key in another database is another key; names of portd count in none."""
    snapshot = Snapshot(True, 80)
    snapshot.entries = [Entry(db, name, 0, b"v") for db in (0, 1) for name in (b"k", b"portd:checkpoint:x", b"portd:")]
    found = Digested(encode(snapshot), ignored=b"portd:checkpoint:")
    assert (found.statistics["keys_told"], found.statistics["keys_filtered"]) == (4, 2)
    assert len(found.buckets[0]) == 4 * RECORD_BYTES
    assert len(difference(found, Digested(encode(Snapshot(True, 80))))) == 4


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
@EXAMPLES
def test_pieces_do_not_count(data: bytes, cuts: list[int]) -> None:
    """A hash of bytes does not depend on how they come."""
    inside = sorted(cut for cut in cuts if cut <= len(data))
    assert digest_bytes(data, b"s", inside) == digest_bytes(data, b"s")


def test_every_bit_moves_half_of_the_hash() -> None:
    """Both lanes avalanche: a flipped bit, anywhere in any length, flips 32 of 64 bits, give or take."""
    for size in (1, 7, 8, 15, 16, 17, 31, 33, 100):
        number = int.from_bytes(bytes(range(size)), "little")
        flips = [0, 0]
        for bit in range(size * 8):
            one, other = (digest_bytes(each.to_bytes(size, "little")) for each in (number, number ^ 1 << bit))
            for lane in (0, 1):
                flips[lane] += (one[lane] ^ other[lane]).bit_count()
        for lane in (0, 1):
            assert 28 < flips[lane] / (size * 8) < 36


def test_no_collision_among_similar_names() -> None:
    """A hundred thousand numbered names have as many hashes in either lane, and the seed changes all of them."""
    hashes = [digest_bytes(b"key:%010d" % n) for n in range(100_000)]
    for lane in (0, 1):
        assert len({each[lane] for each in hashes}) == 100_000
        buckets = [0] * 16
        for each in hashes:
            buckets[each[lane] >> 60] += 1
        assert max(buckets) - min(buckets) < 700
    assert digest_bytes(b"key", b"1") != digest_bytes(b"key", b"2")
