"""Bad snapshots end in an error that says what, where and what to do; good ones with odd but legal bytes do not."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from portd.errors import ChecksumMismatch, DecodeError, LimitExceeded, PortdError, TruncatedSnapshot, UnsupportedRdb
from portd.kernel.events import EventHandler
from portd.kernel.snapshot import SnapshotDecoder
from tests.oracle.dialects import REDIS_6, VALKEY_9
from tests.oracle.drive import SMALL, TINY, Limits, check_memory, make_decoder, run
from tests.oracle.model import Entry, HashValue, ListValue, SetValue, Snapshot, StreamValue, ZsetValue
from tests.oracle.pack import Style, listpack, ziplist
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.oracle.dialects import Spec

    Feed = Callable[[bytes], Iterator[bytes]]

STYLE = Style()


def length(number: int) -> bytes:
    """A number in length encoding."""
    return STYLE.length(number)


def string(value: bytes) -> bytes:
    """A plain string."""
    return length(len(value)) + value


def snapshot_with(record: bytes, *, version: int = 15, valkey: bool = False) -> bytes:
    """A snapshot with one good key in database 2, then *record*."""
    entries = [Entry(2, b"good", 0, b"v")]
    return encode(Snapshot(valkey, 80 if valkey else version, entries), extra=record, crc=0)


def error_of(data: bytes, limits: Limits = SMALL) -> PortdError:
    """The error that decoding ends in; the memory bound holds, and what came before it was written."""
    decoder = make_decoder(VALKEY_9, limits)
    view = memoryview(data)
    with pytest.raises(PortdError) as caught:  # noqa: PT012 - a pump is a loop
        while view:
            taken = decoder.feed(view)
            view = view[taken:]
            batches = 0
            while decoder.next_batch() is not None:
                batches += 1
            check_memory(decoder)
            assert taken or batches or decoder.ended, "stuck"
        decoder.finish()
    check_memory(decoder)
    return caught.value


GOLDEN = {
    b"REDIS0000": "REDIS0000",
    b"REDIS0016": "REDIS0016",
    b"REDIS9999": "REDIS9999",
    b"REDIS0080": "REDIS0080",
    b"VALKEY011": "VALKEY011",
    b"VALKEY079": "VALKEY079",
    b"VALKEY081": "VALKEY081",
    b"VALKEY999": "VALKEY999",
    b"REDIS00x1": "not an RDB",
    b"HTTP/1.1 ": "not an RDB",
    b"-ERR bad ": "not an RDB",
    b"\x00" * 9: "not an RDB",
    b"RADIS0011": "not an RDB",
}


@pytest.mark.parametrize("magic", GOLDEN)
def test_unknown_versions_name_themselves(magic: bytes, feed: Feed) -> None:
    """A version that this build does not know is refused by name, before anything is applied."""
    decoder = make_decoder(VALKEY_9)
    with pytest.raises(UnsupportedRdb, match=GOLDEN[magic]) as caught:  # noqa: PT012 - a pump is a loop
        for piece in feed(magic + b"\x00\x01k\x01v\xff" + bytes(8)):
            decoder.feed(piece)
            assert decoder.next_batch() is None
        decoder.finish()
    assert 0 <= caught.value.offset <= 9
    assert caught.value.exit_code == os.EX_DATAERR


@pytest.mark.parametrize("version", range(1, 16))
def test_known_versions_are_decoded(version: int) -> None:
    """Versions 1 to 15 are read; from 5 on with a checksum."""
    data = encode(Snapshot(False, version, [Entry(0, b"k", 0, b"v")]))
    decoder = run(data, VALKEY_9).decoder
    assert decoder.offset == len(data)


def test_wrong_checksum_is_an_error(feed: Feed) -> None:
    """A flipped bit that decodes is still found at the end."""
    data = bytearray(encode(Snapshot(False, 11, [Entry(0, b"key", 0, b"value"), Entry(3, b"k", 2, SetValue({b"m"}))])))
    data[data.index(b"value")] ^= 1
    with pytest.raises(ChecksumMismatch) as caught:
        run(bytes(data), VALKEY_9, feed=feed)
    assert caught.value.offset >= len(data) - 9
    run(bytes(data), VALKEY_9, feed=feed, verify=False)


def test_zero_checksum_means_none() -> None:
    """A writer with checksums off leaves zeros."""
    data = encode(Snapshot(True, 80, [Entry(0, b"key", 0, b"value")]), crc=0)
    assert run(data, VALKEY_9).decoder.ended


def test_bytes_behind_the_end_are_handed_back(feed: Feed) -> None:
    """The stream follows the snapshot on one connection: not a byte of it may be lost."""
    data = encode(Snapshot(False, 11, [Entry(0, b"k", 0, b"v")]))
    behind = b"*1\r\n$4\r\nPING\r\n" * 3
    decoder = make_decoder(VALKEY_9)
    rest = b""
    for piece in feed(data + behind):
        if decoder.ended:
            rest += piece
            continue
        assert decoder.feed(piece) == len(piece)
        while decoder.next_batch() is not None:
            pass
        rest = decoder.rest() if bool(decoder.ended) else b""
    assert rest == behind
    decoder.finish()


@pytest.mark.parametrize("record", range(12))
def test_every_truncation_is_an_error(record: int) -> None:
    """A snapshot cut at any byte never looks complete and says where it ended."""
    values = [
        (0, b"some text"),
        (0, b"a" * 300),
        (1, ListValue([b"a", b"b" * 70])),
        (18, ListValue([b"a", b"5"])),
        (11, SetValue({b"1", b"2"})),
        (3, ZsetValue({b"m": 0.5})),
        (5, ZsetValue({b"m": 0.5, b"n": 1.0})),
        (13, HashValue({b"f": b"v"})),
        (22, HashValue({b"f": b"v"}, {b"f": 1 << 42})),
        (25, HashValue({b"f": b"v"}, {b"f": 1 << 42})),
        (27, StreamValue([((5, 1), [(b"f", b"v")])], 1, (5, 1))),
        (31, HashValue({b"f": b"v", b"g": b"w"})),
    ]
    kind, value = values[record]
    data = encode(Snapshot(False, 15, [Entry(1, b"key", kind, value, expire_ms=1 << 42, idle=5)]))  # type: ignore[arg-type]
    for limits in (SMALL, TINY):
        for end in range(len(data)):
            error = error_of(data[:end], limits) if end else None
            if error is not None:
                assert isinstance(error, DecodeError)
                assert error.offset <= end
                assert isinstance(error, TruncatedSnapshot)


HUGE_LENGTHS = [(1 << 14) + 5, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("number", HUGE_LENGTHS)
def test_absurd_lengths_do_not_allocate(number: int) -> None:
    """A length that nothing follows ends as a truncated or corrupt snapshot, with memory as before."""
    head = length(number)
    records = {
        "string": b"\x00" + string(b"k") + head,
        "key": b"\x00" + head,
        "key of a hash": b"\x04" + head,
        "list count": b"\x01" + string(b"k") + head + string(b"a"),
        "set count": b"\x02" + string(b"k") + head + string(b"a"),
        "set member": b"\x02" + string(b"k") + length(1) + head,
        "hash count": b"\x04" + string(b"k") + head + string(b"a"),
        "hash value": b"\x04" + string(b"k") + length(1) + string(b"f") + head,
        "zset count": b"\x05" + string(b"k") + head + string(b"a"),
        "quicklist nodes": b"\x12" + string(b"k") + head,
        "quicklist blob": b"\x12" + string(b"k") + length(1) + length(2) + head,
        "plain node": b"\x12" + string(b"k") + length(1) + length(1) + head,
        "blob": b"\x10" + string(b"k") + head,
        "stream nodes": b"\x15" + string(b"k") + head,
        "stream blob": b"\x15" + string(b"k") + length(1) + string(bytes(16)) + head,
        "stream groups": b"\x15" + string(b"k") + length(0) + length(0) * 8 + head,
        "stream pending": b"\x15" + string(b"k") + length(0) * 9 + length(1) + string(b"g") + length(0) * 3 + head,
        "module": b"\x07" + string(b"k") + length(5) + length(5) + head,
        "function": b"\xf5" + head,
        "aux name": b"\xfa" + head,
        "aux value": b"\xfa" + string(b"name") + head,
        "template": b"\xf2" + length(1) + head + string(b"f"),
        "template fields": b"\x1f" + string(b"k") + length(1) + head + string(b"f"),
        "array": b"\x1c" + string(b"k") + head + length(0),
        "key meta": b"\xf3" + head,
        "module aux": b"\xf7" + length(5) + length(2) + length(1) + length(5) + head,
        "database": b"\xfe" + head + b"\x00\x01k\x01v",
    }
    for name, record in records.items():
        data = snapshot_with(record)[:-9]
        for limits in (SMALL, TINY):
            error = error_of(data + bytes(50), limits)
            assert isinstance(error, DecodeError), name
            assert error.offset <= len(data) + 50, name


@pytest.mark.parametrize("plain", [1 << 16, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_lzf_bombs_do_not_allocate(plain: int) -> None:
    """A few packed bytes that announce gigabytes are refused, or unpacked through a small window."""
    bomb = b"\xc3" + length(5) + length(plain) + b"\x00a\xe0\xff\x00"
    restored = [b"\x02" + string(b"k") + length(1) + bomb, b"\x10" + string(b"k") + bomb]
    for record in (
        *(restored if plain > SMALL.chunk_bytes else ()),  # below that the target unpacks, and refuses
        b"\x00" + string(b"k") + bomb,
        b"\x00" + bomb + string(b"v"),
        b"\xfa" + string(b"a") + bomb,
        b"\xf5" + bomb,
    ):
        error = error_of(snapshot_with(record))
        assert isinstance(error, DecodeError)
        assert not isinstance(error, TruncatedSnapshot)


def test_lzf_longest_matches_are_believed() -> None:
    """The best that LZF can do, 264 bytes out of 3, is legal."""
    plain = b"a" * 500_000
    data = encode(Snapshot(False, 11, [Entry(0, b"k", 0, plain), Entry(0, b"s", 2, SetValue({plain}))]), lzf=True)
    target = run(data, VALKEY_9, limits=SMALL).target
    assert target.databases[0][b"k"].value == plain


CORRUPT = {
    "length byte 0x82": b"\x00\x82",
    "string encoding 4": b"\x00" + string(b"k") + b"\xc4",
    "type 6": b"\x06" + string(b"k") + string(b"v"),
    "type 8": b"\x08" + string(b"k") + string(b"v"),
    "type 34": b"\x22" + string(b"k") + string(b"v"),
    "type 200": b"\xc8" + string(b"k") + string(b"v"),
    "type 241": b"\xf1" + string(b"k") + string(b"v"),
    "functions of a release candidate": b"\xf6" + string(b"x"),
    "listpack size": b"\x10" + string(b"k") + string(b"\x08\x00\x00\x00\x00\x00\xff"),
    "listpack without end": b"\x10" + string(b"k") + string(b"\x07\x00\x00\x00\x00\x00\x01"),
    "listpack encoding F5": b"\x14" + string(b"k") + string(b"\x09\x00\x00\x00\x01\x00\xf5\x01\xff"),
    "odd hash": b"\x10" + string(b"k") + string(listpack([b"a"], STYLE)),
    "odd zset": b"\x11" + string(b"k") + string(listpack([b"a", b"1", b"b"], STYLE)),
    "ziplist size": b"\x0a" + string(b"k") + string(b"\x0c\x00\x00\x00\x0a\x00\x00\x00\x00\x00\xff"),
    "intset width": b"\x0b" + string(b"k") + string(struct.pack("<IIH", 3, 1, 1)),
    "intset size": b"\x0b" + string(b"k") + string(struct.pack("<IIH", 2, 2, 1)),
    "zipmap cut": b"\x09" + string(b"k") + string(b"\x01\x05abc"),
    "container 3": b"\x12" + string(b"k") + length(1) + length(3) + string(b"x"),
    "empty plain node": b"\x12" + string(b"k") + length(1) + length(1) + string(b""),
    "stream master id": b"\x15" + string(b"k") + length(1) + string(b"short") + string(listpack([], STYLE)),
    "stream node": b"\x15" + string(b"k") + length(1) + string(bytes(16)) + string(listpack([5, 0], STYLE)),
    "stream text for a number": b"\x15"
    + string(b"k")
    + length(1)
    + string(bytes(16))
    + string(listpack([b"x", 0, 0, 0], STYLE)),
    "module tag 9": b"\x07" + string(b"k") + length(5) + length(9) + length(0),
    "array tag 4": b"\x1c" + string(b"k") + length(1) + length(0) + length(1) + length(4) + string(b"x"),
    "unknown template": b"\x20" + string(b"k") + length(77) + string(b"x"),
    "LZF before the start": b"\x00" + string(b"k") + b"\xc3" + length(3) + length(8) + b"\xc0\x05\x00",
    "LZF gives less": b"\x00" + string(b"k") + b"\xc3" + length(2) + length(30) + b"\x00a",
    "LZF gives more": b"\x00" + string(b"k") + b"\xc3" + length(4) + length(2) + b"\x02abc",
    "LZF of nothing": b"\x00" + string(b"k") + b"\xc3" + length(0) + length(5),
}
# RESTORE hands these bytes on as they are; the target checks them, and its refusal is a dead letter.
LEFT_TO_THE_TARGET = {
    "listpack size", "listpack without end", "listpack encoding F5", "odd hash", "odd zset", "ziplist size", "intset width",
    "intset size", "zipmap cut", "container 3", "empty plain node", "stream master id", "stream node",
    "stream text for a number", "array tag 4",
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_values_name_the_place(name: str) -> None:
    """Corrupt bytes end in an error with offset, database, key and type; the key before them was applied."""
    record = CORRUPT[name]
    data = snapshot_with(record)
    start = data.index(record)
    decoder = make_decoder(REDIS_6, TINY)
    decoder.feed(data)
    written = b""
    with pytest.raises(DecodeError) as caught:  # noqa: PT012 - a pump is a loop
        while (batch := decoder.next_batch()) is not None:
            written += batch.data
        decoder.finish()
        pytest.skip("stepped over or left to the target") if name in LEFT_TO_THE_TARGET else None
    error = caught.value
    assert start <= error.offset <= len(data)
    assert error.db == 2
    assert f"offset {error.offset}" in str(error)
    if error.key is not None:
        assert error.key == b"k"
        assert error.type
    assert not decoder.ended


def test_containers_are_checked_when_they_are_told_by_elements() -> None:
    """A blob that is not restored whole is checked down to its last byte."""
    filler = [b"filler:%d" % n for n in range(40)]
    good = listpack([*filler], STYLE)
    assert run(snapshot_with(b"\x14" + string(b"k") + string(good)), REDIS_6, limits=TINY).decoder.ended
    for at, byte in ((4 + 2, 0xF5), (len(good) - 1, 0x00), (0, good[0] ^ 1)):
        bad = bytearray(good)
        bad[at] = byte
        data = snapshot_with(b"\x14" + string(b"k") + string(bytes(bad)))
        with pytest.raises(DecodeError) as caught:
            run(data, REDIS_6, limits=TINY)
        assert (caught.value.key, caught.value.type) == (b"k", "set_listpack")


def test_names_without_end_are_refused() -> None:
    """What has to be held whole - names of AUX fields, groups, templates - is limited, with a typed error."""
    names = b"".join(string(b"%060d" % n) for n in range(20_000))
    for record in (
        b"\xfa" + string(b"n" * 100_000) + string(b"v"),
        b"\xf2" + length(1) + length(20_000) + names,
        b"\x1f" + string(b"k") + length(1) + length(20_000) + names,
        b"\x1d" + string(b"k") + length(0) + string(b"n" * 2_000_000),
        b"\xf3"
        + length(1)
        + bytes(4)
        + length(5)
        + string(b"m" * 1_000_000)
        + length(0)
        + b"\x00"
        + string(b"k")
        + string(b"v"),
    ):
        error = error_of(snapshot_with(record))
        assert isinstance(error, DecodeError)
        assert not isinstance(error, TruncatedSnapshot)


def test_limits_say_so() -> None:
    """A database number beyond reason is a limit, not a crash."""
    error = error_of(snapshot_with(b"\xfe" + length(1 << 40) + b"\x00\x01k\x01v"))
    assert isinstance(error, LimitExceeded)


def test_odd_but_legal_bytes() -> None:
    """Long forms of lengths, expiries in seconds, unknown AUX fields, AUX behind keys and slot hints are all legal."""
    record = (
        b"\xfa" + string(b"lua") + string(b"return 1")
        + b"\xfb" + length(1 << 40) + length(0)
        + b"\xf4" + length(5) + length(6) + length(7)
        + b"\xfd" + struct.pack("<i", (1 << 31) - 1)
        + b"\x00\x80\x00\x00\x00\x01k\x81\x00\x00\x00\x00\x00\x00\x00\x01v"
        + b"\xfa" + string(b"%unknown") + string(b"x" * 300)
    )  # fmt: skip
    data = snapshot_with(record)
    target = run(data, VALKEY_9).target
    assert target.databases[2][b"k"].value == b"v"
    assert target.databases[2][b"k"].expire_ms == ((1 << 31) - 1) * 1000
    decoder = run(data, VALKEY_9).decoder
    assert decoder.aux["lua"] == "return 1"
    assert decode(data).entries[-1].key == b"k"


def test_errors_do_not_show_values() -> None:
    """Values never appear in a message."""
    data = snapshot_with(b"\x04" + string(b"k") + length(2) + string(b"field") + string(b"secret") + b"\xc4")
    error = error_of(data, TINY)
    assert "secret" not in str(error)


def test_a_failed_decoder_stays_failed() -> None:
    """After an error the decoder gives the same error or nothing, never more batches."""
    decoder = make_decoder(VALKEY_9)
    decoder.feed(snapshot_with(b"\x08" + string(b"k") + b"\x00" + string(b"a") + string(b"b")))
    for _ in range(3):
        with pytest.raises(DecodeError):
            list(iter(decoder.next_batch, None))
    assert not decoder.ended


def test_names_of_a_templated_hash_are_bounded() -> None:
    """By their bytes, not by their number, and together with those that the snapshot keeps."""
    name = b"n" * 60_000
    names = length(0) + string(listpack([name + b"%d" % index for index in range(100)], STYLE))
    error = error_of(snapshot_with(b"\x1d" + string(b"k") + names))
    assert isinstance(error, LimitExceeded)
    assert "field names" in str(error)
    names = length(1) + length(70_000) + string(b"n") * 70_000
    error = error_of(snapshot_with(b"\x1d" + string(b"k") + names))
    assert isinstance(error, LimitExceeded)
    assert "field names" in str(error)


def test_templates_without_names_are_bounded() -> None:
    """A template costs memory also when it has no names: they are refused before they are many megabytes."""
    error = error_of(snapshot_with(b"".join(b"\xf2" + length(index) + length(0) for index in range(100_000))))
    assert isinstance(error, LimitExceeded)
    assert "hash templates" in str(error)


@pytest.mark.parametrize(("first", "last"), [(0, 16384), (5, 4), (16384, 16384), (0, 1 << 40)])
def test_slots_that_no_cluster_has(first: int, last: int) -> None:
    """Ranges of slots under import are believed only where such slots are."""
    ranges = b"\xf3" + string(b"j" * 40) + length(1) + length(first) + length(last)
    assert "16384" in str(error_of(snapshot_with(ranges, valkey=True)))


def test_an_expiry_that_is_text() -> None:
    """Behind a field too long to hold as well: nothing is made of a number that was read elsewhere."""
    cells = listpack([b"f", b"x" * 100_000, b"soon"], STYLE)
    value = struct.pack("<Q", 1) + string(cells)
    assert "expiry of a field is not a number" in str(error_of(snapshot_with(b"\x19" + string(b"k") + value)))


def test_dead_letters_are_bounded_by_their_keys() -> None:
    """However long the keys are, few megabytes of them are kept; all are counted."""
    record = b"".join(b"\x21" + string(b"%03d" % index + b"k" * 60_000) + length(5) for index in range(200))
    decoder = make_decoder(VALKEY_9, SMALL, verify=False)
    view = memoryview(snapshot_with(record + b"\xff", version=15))
    while view and not decoder.ended:
        view = view[decoder.feed(view) :]
        while decoder.next_batch() is not None:
            pass
    letters = decoder.take_dead_letters()
    assert decoder.statistics()["dead_letters"] == 200
    assert 0 < sum(len(letter.key) for letter in letters) < 2 << 20


@pytest.mark.parametrize("op", [107, 121])
def test_what_redis_enterprise_says_of_a_key_is_skipped(op: int) -> None:
    """Opcodes 107 and 121 and the length behind each stand before a key, between its expiry and its type, or alone."""
    told = bytes([op]) + length(70_000)
    record = told + b"\xfc" + struct.pack("<q", 1 << 42) + told + b"\x00" + string(b"k") + string(b"v") + told
    target = run(snapshot_with(record), VALKEY_9).target
    assert target.databases[2][b"k"].value == b"v"
    assert target.databases[2][b"k"].expire_ms == 1 << 42
    assert isinstance(error_of(snapshot_with(told, version=80, valkey=True)), UnsupportedRdb)


@pytest.mark.parametrize("spec", [VALKEY_9, REDIS_6], ids=lambda spec: spec.name)
@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_a_list_of_empty_nodes_is_no_key(nodes: int, spec: Spec) -> None:
    """Servers skip nodes without entries, and a list that has no others; a node with an entry makes it one."""
    empty_ziplist, empty_listpack = ziplist([], STYLE), listpack([], STYLE)
    lists = {
        b"old": b"\x0e" + string(b"old") + length(nodes) + nodes * string(empty_ziplist),
        b"new": b"\x12" + string(b"new") + length(nodes) + nodes * (length(2) + string(empty_listpack)),
    }
    result = run(snapshot_with(b"".join(lists.values())), spec)
    assert set(result.target.databases[2]) == {b"good"}
    assert not result.letters
    assert (result.statistics()["keys"], result.statistics()["keys_filtered"]) == (3, 2)
    filled = (
        b"\x12"
        + string(b"new")
        + length(2)
        + length(2)
        + string(empty_listpack)
        + length(2)
        + string(listpack([b"a"], STYLE))
    )
    assert b"new" in run(snapshot_with(filled), spec).target.databases[2]


PARTS = {
    "the magic": b"REDIS00x1",
    "opcode SELECTDB": b"\xfe\xc9",
    "opcode AUX": b"\xfa" + string(b"redis-ver") + b"\xc9",
    "opcode HASH_TEMPLATE": b"\xf2\xc9",
    "a key of type hash": b"\x04\xc9",
    "a key of type string": b"\x00" + string(b"k") + b"\xc9",
    "the beginning of a value": b"\x02" + string(b"k") + b"\xc9",
    "the elements of a collection": b"\x02" + string(b"k") + length(1) + b"\xc9",
    "a node of a quicklist": b"\x12" + string(b"k") + length(1) + length(3),
    "the header of a listpack": b"\x10" + string(b"k") + string(bytes(30)),
    "an entry of a listpack": b"\x10" + string(b"k") + string(b"\x09\0\0\0\x01\0\xf5\x01\xff"),
    "the data of a module": b"\xf7" + length(5) + length(2) + length(1) + length(9),
    "the id of a stream's node": b"\x15" + string(b"k") + length(1) + string(b"short"),
    "a consumer group": b"\x15" + string(b"k") + length(0) * 9 + length(1) + b"\xc9",
    "an element of an array": b"\x1c" + string(b"k") + length(1) + length(0) + length(0) + length(9),
    "a templated hash": b"\x1f" + string(b"k") + length(1) + length(1) + string(b"f") + b"\xc9",
}


@pytest.mark.parametrize("part", PARTS)
def test_errors_say_what_was_being_read(part: str) -> None:
    """Whoever looks into a corrupt snapshot learns which part of which value is bad, beside the offset."""
    decoder = SnapshotDecoder(EventHandler())
    with pytest.raises(DecodeError) as caught:  # noqa: PT012 - a pump is a loop
        decoder.feed(PARTS[part] if part == "the magic" else snapshot_with(PARTS[part]))
        while decoder.next_output() is not None:
            pass
    assert caught.value.part == part
    assert f"(in {part}, offset {caught.value.offset}" in str(caught.value)


def test_a_corrupt_value_that_goes_whole_says_how_far_it_is_good() -> None:
    """A value for RESTORE is measured before it is sent: the offset is where it begins, the message tells the rest."""
    error = error_of(snapshot_with(b"\x02" + string(b"k") + length(2) + string(b"abc") + b"\xc9"))
    assert isinstance(error, DecodeError)
    assert "corrupt value behind its first 5 bytes (in a value being measured, offset " in str(error)
    assert (error.db, error.key, error.type) == (2, b"k", "set")


def test_a_cut_snapshot_says_in_what_it_was_cut() -> None:
    """The end of the bytes in the middle of a value names it, its key and its type."""
    error = error_of(snapshot_with(b"\x02" + string(b"cut") + length(2) + string(b"abc"))[:-9])
    assert isinstance(error, TruncatedSnapshot)
    assert (error.part, error.db, error.key, error.type) == ("a value being measured", 2, b"cut", "set")


@pytest.mark.parametrize(("lowest", "more"), [((1 << 63) - 1, 2), (1, 1 << 62), ((1 << 64) - 1, 1)])
def test_an_expiry_of_a_field_beyond_what_servers_take_is_an_error(lowest: int, more: int) -> None:
    """The lowest expiry and a field's distance from it are added: hostile ones may not wrap around into a valid time."""
    record = b"\x18" + string(b"k") + struct.pack("<Q", lowest) + length(1) + length(more) + string(b"f") + string(b"v")
    decoder = SnapshotDecoder(EventHandler())
    decoder.feed(snapshot_with(record))
    with pytest.raises(LimitExceeded, match="expiry of a"):
        decoder.next_output()
