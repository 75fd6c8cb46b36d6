"""Big keys and elements larger than a chunk: the protocol of batches, the order of chunks, and bounded memory."""

from __future__ import annotations

import random
import resource
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from portd.kernel.batch import CLOSE, OPEN, ORDERED, SPREAD
from portd.kernel.events import EventHandler
from portd.kernel.snapshot import SnapshotDecoder
from tests.oracle.apply import split_commands
from tests.oracle.dialects import REDIS_6, REDIS_7_0, REDIS_8_10, SPECS, VALKEY_8, VALKEY_9, Spec
from tests.oracle.drive import FEEDS, SMALL, Limits, check_memory, make_decoder, run
from tests.oracle.expect import check
from tests.oracle.model import (
    ArrayValue,
    Consumer,
    Entry,
    Group,
    HashValue,
    ListValue,
    Pending,
    SetValue,
    Snapshot,
    StreamId,
    StreamValue,
    Value,
    ZsetValue,
)
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import FAR_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portd.kernel.batch import Batch

    Feed = Callable[[bytes], Iterator[bytes]]

BIG = 150_000  # bytes: above SMALL.chunk_bytes, below the window
HUGE = 900_000  # above SMALL's window


def noise(size: int) -> bytes:
    """Bytes that LZF cannot pack."""
    return random.Random(size).randbytes(size)


def pattern(size: int) -> bytes:
    """Bytes that LZF packs, with overlapping matches at several distances."""
    return (b"abc" * 40 + b"x" * 300 + bytes(range(256)))[:676] * (size // 676) + b"y" * (size % 676)


def batches_of(data: bytes, spec: Spec, limits: Limits) -> list[Batch]:
    """All batches of a snapshot, unchecked."""
    decoder = make_decoder(spec, limits)
    found = []
    view = memoryview(data)
    while view:
        view = view[decoder.feed(view) :]
        while (batch := decoder.next_batch()) is not None:
            found.append(batch)
    decoder.finish()
    return found


COLLECTIONS: dict[str, tuple[int, Value]] = {
    "list": (1, ListValue([noise(50 + n % 7) for n in range(3000)])),
    "quicklist": (18, ListValue([b"%d" % n * (n % 9) for n in range(9000)])),
    "set": (2, SetValue({b"member:%d" % n for n in range(6000)})),
    "zset": (5, ZsetValue({b"member:%d" % n: n / 7 for n in range(5000)})),
    "hash": (4, HashValue({b"field:%d" % n: noise(n % 30) for n in range(4000)})),
    "hash with field ttl": (
        22,
        HashValue(
            {b"field:%d" % n: b"v" * 20 for n in range(3000)}, {b"field:%d" % n: FAR_MS + n for n in range(0, 3000, 3)}
        ),
    ),
    "hash listpack": (16, HashValue({b"field:%d" % n: pattern(n % 90) for n in range(3000)})),
    "set intset": (11, SetValue({b"%d" % (n * n) for n in range(20_000)})),
    "stream": (
        19,
        StreamValue(
            [((1000 + n // 2, n % 2), [(b"f", noise(n % 50)), (b"g", b"%d" % n)]) for n in range(2500)],
            2500,
            (5000, 0),
            (1000, 0),
            (0, 0),
            2600,
        ),
    ),
    "string": (0, noise(BIG)),
    "packed string": (0, pattern(BIG)),
}


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("spec", [VALKEY_9, REDIS_6], ids=lambda spec: spec.name)
def test_big_keys_follow_the_protocol(name: str, spec: Spec) -> None:
    """OPEN, then chunks of one kind, then CLOSE with the expiry, all with one fence; neighbours are whole keys."""
    kind, value = COLLECTIONS[name]
    entries = [
        Entry(3, b"before", 0, b"v"),
        Entry(3, b"big", kind, value, expire_ms=FAR_MS),
        Entry(3, b"behind", 0, b"v"),
    ]
    data = encode(Snapshot(kind == 22, 80 if kind == 22 else 11, entries))
    result = run(data, spec, limits=SMALL, seed=len(name))
    check(decode(data), result)
    kinds = result.lanes.kinds
    assert (kinds[OPEN], kinds[CLOSE]) == (1, 1)
    spread = isinstance(value, SetValue | ZsetValue | HashValue)
    assert kinds[SPREAD if spread else ORDERED] > 3
    assert kinds[ORDERED if spread else SPREAD] == 0
    found = batches_of(data, spec, SMALL)
    closing = next(batch for batch in found if batch.kind == CLOSE)
    assert b"PEXPIREAT" in closing.data
    assert closing.keys == 1
    assert all(batch.db == 3 for batch in found)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_big_keys_arrive_however_they_are_fed(name: str, feed: Feed) -> None:
    """The split of the input does not matter for big keys either."""
    kind, value = COLLECTIONS[name]
    if feed.__name__ == "byte_by_byte" and kind not in (0, 16):
        pytest.skip("slow, and covered with small limits by the fuzz tests")
    data = encode(Snapshot(kind == 22, 80 if kind == 22 else 11, [Entry(0, b"big", kind, value)]))
    check(decode(data), run(data, VALKEY_9, feed=feed, limits=SMALL))


def test_fences_count_from_one() -> None:
    """Each big key has the next fence."""
    entries = [Entry(db, b"big", 1, COLLECTIONS["list"][1]) for db in range(3)]
    found = batches_of(encode(Snapshot(False, 11, entries)), VALKEY_9, SMALL)
    assert [batch.fence for batch in found if batch.kind == OPEN] == [1, 2, 3]


@pytest.mark.parametrize("spec", [VALKEY_9, REDIS_6], ids=lambda spec: spec.name)
def test_base_tells_how_long_the_list_must_be(spec: Spec) -> None:
    """A list chunk says how many elements were sent before it, so that a repeated chunk can be told from a lost one."""
    elements = [b"%d" % n for n in range(20_000)] + [noise(BIG), b"tail"]
    data = encode(Snapshot(False, 11, [Entry(0, b"big", 18, ListValue(elements))]))
    found = [batch for batch in batches_of(data, spec, SMALL) if batch.kind == ORDERED]
    assert [batch.base for batch in found] == sorted(batch.base for batch in found)
    assert found[0].base == 0
    assert found[-1].base in (20_000, 20_001)
    check(decode(data), run(data, spec, limits=SMALL))


LONG = [BIG, HUGE]


def long_elements(size: int, make: Callable[[int], bytes]) -> dict[str, tuple[int, Value]]:
    """A value of each type with elements of *size* bytes in every place."""
    long, other = make(size), make(size + 1)
    pairs: dict[bytes, bytes] = {b"a": b"1", long: b"short", b"b": long, other: other, b"z": b"26"}
    stream = StreamValue(
        [((5, 0), [(b"f", b"v")]), ((6, 0), [(b"f", long)]), ((7, 1), [(b"g", other), (b"h", b"w")])], 3, (9, 9)
    )
    stream.first_id, stream.max_deleted_id, stream.entries_added = (5, 0), (0, 0), 3
    return {
        "string": (0, long),
        "list": (1, ListValue([b"a", long, b"b", other, b"c"])),
        "list ziplist": (10, ListValue([b"a", long, b"b"])),
        "quicklist": (14, ListValue([b"a", long, b"b"])),
        "quicklist plain": (18, ListValue([long])),
        "quicklist packed": (18, ListValue([b"a", long, b"b", other, b"5"])),
        "set": (2, SetValue({b"a", long, b"b", other})),
        "set listpack": (20, SetValue({b"a", long, b"b"})),
        "zset text": (3, ZsetValue({b"a": 1.0, long: 0.1, b"b": 3.0, other: float("inf")})),
        "zset": (5, ZsetValue({b"a": 1.0, long: 0.1, b"b": 3.0, other: float("-inf")})),
        "zset listpack": (17, ZsetValue({b"a": 1.0, long: 0.1, b"b": 3.0})),
        "hash": (4, HashValue(pairs)),
        "hash zipmap": (9, HashValue(pairs)),
        "hash ziplist": (13, HashValue(pairs)),
        "hash listpack": (16, HashValue(pairs)),
        "hash valkey": (22, HashValue(pairs, {long: FAR_MS, b"b": FAR_MS + 1, b"z": FAR_MS + 2})),
        "hash metadata": (24, HashValue(pairs, {long: FAR_MS, b"b": FAR_MS + 1, b"z": FAR_MS + 2})),
        "hash listpack ex": (25, HashValue(pairs, {long: FAR_MS, b"z": FAR_MS + 2})),
        "hash template": (31, HashValue({b"a": long, b"b": b"1", b"c": other})),
        "hash template listpack": (29, HashValue({b"a": long, b"b": b"1", b"c": other})),
        "stream": (21, stream),
    }


@pytest.mark.parametrize("name", long_elements(10, noise))
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "lzf"])
@pytest.mark.parametrize("size", LONG)
def test_elements_larger_than_a_chunk(name: str, packed: bool, size: int) -> None:  # noqa: FBT001
    """An element larger than a chunk, or than the window, goes through in parts, raw or packed, in every place."""
    kind, value = long_elements(size, pattern if packed else noise)[name]
    valkey = name == "hash valkey"
    snapshot = Snapshot(
        valkey, 80 if valkey else 15, [Entry(0, b"big", kind, value, expire_ms=FAR_MS), Entry(0, b"k", 0, b"v")]
    )
    data = encode(snapshot, lzf=packed, crc=0)
    for spec in (VALKEY_9, VALKEY_8, REDIS_8_10, REDIS_6):
        check(decode(data), run(data, spec, limits=SMALL))


@pytest.mark.parametrize("name", long_elements(10, noise))
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "lzf"])
def test_long_elements_however_they_are_fed(name: str, packed: bool, feed: Feed) -> None:  # noqa: FBT001
    """Long elements survive every split."""
    kind, value = long_elements(300, pattern if packed else noise)[name]
    valkey = name == "hash valkey"
    data = encode(Snapshot(valkey, 80 if valkey else 15, [Entry(0, b"big", kind, value)]), lzf=packed)
    limits = Limits(chunk_bytes=100, batch_bytes=90, command_bytes=70, command_elements=2)
    for spec in (VALKEY_9, REDIS_8_10, REDIS_7_0, REDIS_6):
        check(decode(data), run(data, spec, feed=feed, limits=limits))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_items_around_the_chunk_size(spec: Spec) -> None:
    """Items of a few bytes more or less than a chunk are neither lost nor doubled."""
    limits = Limits(chunk_bytes=1000, batch_bytes=900, command_bytes=300, command_elements=5)
    for size in [*range(920, 1010, 3), 1063, 1064, 1065, 1066]:
        for kind in (2, 20):
            entries = [Entry(0, b"set", kind, SetValue({noise(size), b"a"})), Entry(1, b"k", 0, noise(size))]
            for packed in (False, True):
                entries[0].value = SetValue({pattern(size), b"a"})
                data = encode(Snapshot(False, 11, entries), lzf=packed)
                check(decode(data), run(data, spec, limits=limits))


def big_stream(*, groups: int, pending: int) -> StreamValue:
    """A stream with many entries, groups, consumers and pending entries."""
    entries = [((n + 1, 0), [(b"f", b"%d" % n)]) for n in range(3000)]
    stream = StreamValue(entries, 3000, (3000, 5), (1, 0), (0, 3), 3100)
    for number in range(groups):
        consumers = {b"c%d" % n: Consumer(5, 6 if n else -1) for n in range(40)}
        owned: dict[StreamId, Pending] = {(n + 1, 0): Pending(b"c%d" % (n % 37), n, n % 9) for n in range(pending)}
        stream.groups[b"group:%d" % number] = Group((number, 0), number, owned, consumers)
    return stream


@pytest.mark.parametrize("spec", [VALKEY_9, REDIS_7_0, REDIS_6], ids=lambda spec: spec.name)
def test_big_streams_keep_groups_and_pending_entries(spec: Spec) -> None:
    """Groups, consumers without pending entries, times and counts of deliveries survive the way through commands."""
    data = encode(Snapshot(False, 11, [Entry(0, b"big", 21, big_stream(groups=30, pending=700))]), crc=0)
    result = run(data, spec, limits=SMALL)
    check(decode(data), result)
    assert result.lanes.kinds[ORDERED] > 10


def test_a_long_key_name_does_not_multiply() -> None:
    """Every command repeats the key: a long name must not turn a small value into an endless batch."""
    name = b"k" * 60_000
    entries = [
        Entry(
            0,
            name,
            21,
            StreamValue([((n + 1, 0), [(b"f", b"v")]) for n in range(300)], 300, (300, 0), (1, 0), (0, 0), 300),
        ),
        Entry(1, name, 24, HashValue({b"%d" % n: b"v" for n in range(300)}, {b"%d" % n: FAR_MS for n in range(300)})),
    ]
    data = encode(Snapshot(False, 12, entries))
    for spec in (REDIS_7_0, REDIS_6, VALKEY_9):
        check(decode(data), run(data, spec))


@pytest.mark.parametrize("kind", [16, 18, 20])
def test_a_name_longer_than_a_command_fills_no_endless_batch(kind: int) -> None:
    """Behind such a name each element is a command of its own: even a hundred bytes of elements are a big key then."""
    name = b"k" * 100_000
    members = [b"%d" % n for n in range(100)]
    values: dict[int, Value] = {
        16: HashValue(dict.fromkeys(members[:50], b"1")),
        18: ListValue(members),
        20: SetValue(set(members)),
    }
    data = encode(Snapshot(False, 11, [Entry(0, name, kind, values[kind])]))
    limits = Limits()
    largest = max(len(batch) for batch in batches_of(data, REDIS_6, limits))
    assert largest <= limits.batch_bytes + limits.command_bytes + 2 * len(name)
    check(decode(data), run(data, REDIS_6))


def test_pending_entries_leave_piece_by_piece() -> None:
    """Each of their lines repeats the key: one call makes no more of them than it hands out, and few that wait."""
    name = b"k" * 30_000
    data = encode(Snapshot(False, 11, [Entry(0, name, 21, big_stream(groups=1, pending=700))]), crc=0)
    decoder = SnapshotDecoder(EventHandler())
    view = memoryview(data)
    handed = waiting = 0
    while view:
        view = view[decoder.feed(view) :]
        while (lines := decoder.next_output()) is not None:
            assert isinstance(lines, bytes)
            handed += lines.count(b"\n")
            waiting = max(waiting, decoder.statistics()["lines"] - handed)
    decoder.finish()
    assert handed > 3700
    assert waiting < 50


@pytest.mark.parametrize("make", [noise, pattern])
def test_memory_does_not_grow_with_the_value(make: Callable[[int], bytes]) -> None:
    """A value of many windows passes through with the decoder's own memory bounded, and few bytes waiting."""
    size = 12_000_000
    value = HashValue({b"long": make(size), b"short": b"v"})
    data = encode(Snapshot(False, 11, [Entry(0, b"k", 4, value)]), crc=0, lzf=False if make is noise else None)
    decoder = make_decoder(VALKEY_9, SMALL)
    assert decoder.window_bytes < 32 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent = waiting = 0
    view = memoryview(data)
    while view:
        view = view[decoder.feed(view) :]
        while (batch := decoder.next_batch()) is not None:
            sent += len(batch)
            waiting = max(waiting, len(batch))
        check_memory(decoder)
    decoder.finish()
    assert sent > size
    assert waiting <= SMALL.batch_bytes + SMALL.command_bytes + (64 << 10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # KiB


def test_buffers_are_visible_to_tracemalloc() -> None:
    """The decoder's window is allocated through Python, so that a heap profile shows it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        decoder = make_decoder(VALKEY_9, SMALL)
        window = decoder.statistics()["window_capacity"]
        assert tracemalloc.get_traced_memory()[0] - before >= window
        del decoder
        assert tracemalloc.get_traced_memory()[0] - before < window // 10
    finally:
        tracemalloc.stop()


def test_current_key_is_shown_while_it_is_decoded() -> None:
    """``current`` names the key in progress and how far it is; there is none between keys."""
    data = encode(Snapshot(False, 11, [Entry(7, b"big", 4, COLLECTIONS["hash"][1]), Entry(7, b"k", 0, b"v")]))
    decoder = make_decoder(VALKEY_9, SMALL)
    assert repr(decoder.current) == "None"
    fed = decoder.feed(data[:90_000])  # more than a chunk: before that it waits for the whole value
    while decoder.next_batch() is not None:
        pass
    current = decoder.current
    assert current is not None
    assert (current.db, current.key, current.elements_total) == (7, b"big", 4000)
    assert 0 < current.elements_done < 4000
    assert 0 < current.bytes_done <= fed
    assert "hash" in current.type
    decoder.feed(data[fed:])
    while decoder.next_batch() is not None:
        pass
    assert decoder.ended
    assert repr(decoder.current) == "None"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("kind", "value", "rest"),
    [
        (0, noise(HUGE), None),
        (0, pattern(HUGE), None),
        (1, ListValue([b"a", noise(HUGE), b"b"]), ListValue([b"a", b"b"])),
        (18, ListValue([b"a", noise(HUGE), b"b"]), ListValue([b"a", b"b"])),
        (2, SetValue({b"a", noise(HUGE), b"b"}), SetValue({b"a", b"b"})),
        (5, ZsetValue({b"a": 1.0, noise(HUGE): 2.0, b"b": 3.0}), ZsetValue({b"a": 1.0, b"b": 3.0})),
        (4, HashValue({b"a": b"1", noise(HUGE): b"2", b"b": b"3"}), HashValue({b"a": b"1", b"b": b"3"})),
        (4, HashValue({b"a": b"1", b"huge": noise(HUGE), b"b": b"3"}), HashValue({b"a": b"1", b"b": b"3"})),
        (16, HashValue({b"a": b"1", b"huge": noise(HUGE), b"b": b"3"}), HashValue({b"a": b"1", b"b": b"3"})),
        (
            4,
            HashValue({b"a": b"1", noise(BIG): noise(HUGE), b"b": b"3"}),
            HashValue({b"a": b"1", noise(BIG): b"", b"b": b"3"}),
        ),
    ],
)
@pytest.mark.parametrize("feed", ["whole", "random_cuts"])
def test_what_the_target_takes_in_no_argument_is_left_out(
    kind: int, value: Value, rest: Value | None, feed: str
) -> None:
    """An element above proto-max-bulk-len is a dead letter; the rest of its key, and the next key, arrive."""
    spec = VALKEY_9.but(max_bulk_bytes=HUGE - 1)
    entries = [Entry(0, b"key", kind, value), Entry(0, b"next", 0, b"x")]
    result = run(encode(Snapshot(False, 10, entries)), spec, feed=FEEDS[feed], limits=SMALL)
    stored = result.target.databases[0]
    assert stored[b"next"].value == b"x"
    assert (stored[b"key"].value if b"key" in stored else None) == rest
    (letter,) = result.letters
    assert (letter.db, letter.key) == (0, b"key")
    assert f"{HUGE} bytes" in letter.reason
    assert "proto-max-bulk-len" in letter.reason
    assert result.statistics()["keys_failed"] == 1
    assert result.lanes.keys == 1
    check(
        decode(encode(Snapshot(False, 10, entries))), run(encode(Snapshot(False, 10, entries)), VALKEY_9, limits=SMALL)
    )


@pytest.mark.parametrize("feed", ["whole", "random_cuts"])
def test_an_item_of_a_stream_that_no_argument_takes_is_empty(feed: str) -> None:
    """The entry was told its number of fields: what the target gets is whole, and the next long items have their bytes."""
    spec = VALKEY_9.but(max_bulk_bytes=HUGE - 1)
    fields = [(b"huge", noise(HUGE)), (b"long", noise(BIG)), (b"name", b"value")]
    stream = StreamValue([((5, 0), fields), ((6, 0), [(b"long", noise(BIG))])], 2, (6, 0))
    entries = [Entry(0, b"key", 15, stream), Entry(0, b"next", 0, noise(BIG))]
    result = run(encode(Snapshot(False, 10, entries)), spec, feed=FEEDS[feed], limits=SMALL)
    stored = result.target.databases[0][b"key"].value
    assert isinstance(stored, StreamValue)
    assert stored.entries == [((5, 0), [(b"huge", b""), *fields[1:]]), stream.entries[1]]
    assert result.target.databases[0][b"next"].value == noise(BIG)
    (letter,) = result.letters
    assert "an empty one is in its entry" in letter.reason
    assert result.statistics()["keys_failed"] == 1


def test_a_long_name_behind_a_long_value() -> None:
    """A field does not fit the window beside what was measured of its hash: then the hash is big, whatever its count."""
    value = HashValue({b"a": noise(1_040_000), noise(400_000): noise(1_000_000), b"b": b"1"})
    data = encode(Snapshot(False, 10, [Entry(0, b"key", 4, value)]))
    commands = [words for batch in batches_of(data, VALKEY_9, Limits()) for words in split_commands(batch.data)]
    fields = [word for words in commands if words[0] == b"HSET" for word in words[2:]]
    assert dict(zip(fields[0::2], fields[1::2], strict=True)) == value.fields


def test_floats_of_an_array_are_what_the_user_wrote() -> None:
    """Told by elements, they are the shortest text that is the number, without exponents: only that is a float again."""
    texts = [
        b"0.1",
        b"1.0",
        b"3.14",
        b"-0.0",
        b"0.00001",
        b"10000000000000000.0",
        b"-2.5",
        b"123456789.125",
        b"7",
        b"1e5",
    ]
    value = ArrayValue({index: texts[index % len(texts)] for index in range(20_000)}, None)
    result = run(encode(Snapshot(False, 15, [Entry(0, b"key", 28, value)])), REDIS_8_10, limits=SMALL)
    assert result.target.databases[0][b"key"].value == value
    assert result.lanes.commands[b"ARMSET"] == 20_000
