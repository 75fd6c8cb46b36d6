"""What `decode` writes, against the oracle: every type, every split, items longer than a chunk, broken bytes."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from portd.errors import DecodeError, LimitExceeded
from portd.kernel.events import CSV_HEADER, EventHandler
from portd.kernel.snapshot import SnapshotDecoder
from portd.kernel.tally import KeyHandler, StatsHandler
from tests.lines import expected, read_lines, stream_id, text
from tests.oracle.drive import FEEDS
from tests.oracle.model import ArrayValue, Entry, HashValue, ListValue, Snapshot, StreamValue
from tests.oracle.pack import Style
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import effort, snapshots

if TYPE_CHECKING:
    from portd.kernel.handler import Handler

FUZZ = effort(80)
STYLES = st.none() | st.integers(0, 1000)
CHUNKS = st.sampled_from([1 << 20, 512, 64])


def run(data: bytes, handler: Handler, feed: str = "whole", chunk_bytes: int = 1 << 20) -> bytes:
    """Everything that a handler makes of a snapshot."""
    decoder = SnapshotDecoder(handler, chunk_bytes=chunk_bytes)
    out = bytearray()
    for piece in FEEDS[feed](data):
        rest = memoryview(piece)
        while True:
            rest = rest[decoder.feed(rest) :]
            while (part := decoder.next_output()) is not None:
                assert isinstance(part, bytes)
                out += part
            if not rest:
                break
    decoder.finish()
    return bytes(out)


def tell(data: bytes, feed: str = "whole", chunk_bytes: int = 1 << 20, *, as_csv: bool = False) -> bytes:
    """Its elements as lines."""
    return run(data, EventHandler(csv=as_csv, part_bytes=100, chunk_bytes=chunk_bytes), feed, chunk_bytes)


def assert_same(told: Any, values: Any, place: object) -> None:
    """The same elements; NaN equals NaN, and the order counts in streams only."""
    if isinstance(values, StreamValue):
        assert [repr(each) for each in told] == [repr(each) for each in values.entries], place
    else:
        wanted = values.slots.items() if isinstance(values, ArrayValue) else values
        assert {repr(each) for each in told} == {repr(each) for each in wanted}, place


@given(snapshots(), STYLES, st.sampled_from(sorted(FEEDS)), CHUNKS)
@FUZZ
def test_lines_say_what_the_oracle_reads(snapshot: Snapshot, style: int | None, feed: str, chunk_bytes: int) -> None:
    """Each element is one line with its value, its expiry and its key, whatever the encoding and the split."""
    data = encode(snapshot, Style(style))
    try:
        output = tell(data, feed, chunk_bytes)
    except LimitExceeded:
        assert chunk_bytes < 1 << 20  # names that must be held whole
        return
    told, others = read_lines(output)
    known = decode(data)
    refused = {(line["db"], text(line["key"])) for line in others if line.get("record") == "refused"}
    long_keys = {(entry.db, entry.key) for entry in known.entries if len(entry.key) > chunk_bytes}
    for place, values in expected(known).items():
        if place in refused or place in long_keys:
            continue
        assert_same(told.get(place, []), values, place)
    if not long_keys:
        assert told.keys() <= expected(known).keys() | refused
        functions = [code for code in known.functions if len(code) <= chunk_bytes]  # longer ones are counted, not told
        assert [text(line["value"]) for line in others if line["type"] == "function"] == functions


@given(snapshots(), STYLES)
@FUZZ
def test_stream_records_name_all_of_a_group(snapshot: Snapshot, style: int | None) -> None:
    """Groups, their pending entries and their consumers are lines of their own."""
    data = encode(snapshot, Style(style))
    _, others = read_lines(tell(data))
    for entry in decode(data).entries:
        if not isinstance(entry.value, StreamValue):
            continue
        mine = [line for line in others if line.get("db") == entry.db and text(line["key"]) == entry.key]
        groups = {text(line["group"]): stream_id(line["lastid"]) for line in mine if line["record"] == "group"}
        assert groups == {name: group.last_id for name, group in entry.value.groups.items()}
        pending = {(text(line["group"]), stream_id(line["id"])) for line in mine if line["record"] == "pending"}
        assert pending == {(name, each) for name, group in entry.value.groups.items() for each in group.pending}
        consumers = {(text(line["group"]), text(line["consumer"])) for line in mine if line["record"] == "consumer"}
        assert consumers == {(name, each) for name, group in entry.value.groups.items() for each in group.consumers}


@given(snapshots(), STYLES, CHUNKS)
@FUZZ
def test_the_output_does_not_depend_on_the_split(snapshot: Snapshot, style: int | None, chunk_bytes: int) -> None:
    """The same snapshot gives the same bytes, however it arrives."""
    data = encode(snapshot, Style(style))
    for as_csv in (False, True):
        outputs = set()
        for feed in FEEDS:
            try:
                outputs.add(tell(data, feed, chunk_bytes, as_csv=as_csv))
            except LimitExceeded:
                outputs.add(b"limit")
        assert len(outputs) == 1


@given(snapshots(), STYLES, CHUNKS)
@FUZZ
def test_csv_rows_have_every_column(snapshot: Snapshot, style: int | None, chunk_bytes: int) -> None:
    """Any reader of CSV finds twelve cells in each row, and the rows that JSON has lines for."""
    data = encode(snapshot, Style(style))
    try:
        output, lines = tell(data, chunk_bytes=chunk_bytes, as_csv=True), tell(data, chunk_bytes=chunk_bytes)
    except LimitExceeded:
        return
    rows = list(csv.reader(io.StringIO(output.decode(), newline=""), strict=True))
    assert ",".join(rows[0]).encode() + b"\n" == CSV_HEADER
    assert {len(row) for row in rows} == {12}
    json_lines = [json.loads(line) for line in lines.splitlines()]
    fields = sum(len(line["fields"]) - 1 for line in json_lines if "fields" in line)
    assert len(rows) - 1 == len(json_lines) + fields
    assert [row[11] for row in rows[1:] if row[11]] == [
        _details(line) for line in lines.splitlines() if b'"record":"' in line and "record" in json.loads(line)
    ]


def _details(line: bytes) -> str:
    return "{" + line.decode()[line.decode().index('"record":') :]


@given(snapshots(), STYLES)
@FUZZ
def test_keys_and_stats_count_what_the_oracle_holds(snapshot: Snapshot, style: int | None) -> None:
    """Every key is one line of `keys`, and the report's totals agree with it."""
    data = encode(snapshot, Style(style))
    known = decode(data)
    lines = [json.loads(line) for line in run(data, KeyHandler()).splitlines()]
    handler = StatsHandler(top=3)
    assert run(data, handler) == b""
    report = handler.report()
    counts = {(line["db"], text(line["key"])): line["elements"] for line in lines if line.get("record") != "refused"}
    places = {(entry.db, entry.key) for entry in known.entries}
    assert places <= counts.keys() <= places | set(known.empty)
    assert report["total"][:3] == [len(lines), sum(line["bytes"] for line in lines), sum(counts.values())]
    for name in ("types", "encodings", "databases", "prefixes"):
        assert [sum(column) for column in zip(*report[name].values(), strict=True)] == (
            report["total"] if lines else []
        )
    assert [sum(column) for column in zip(*report["expiries"], strict=True)] == report["total"]
    sizes = sorted((line["bytes"] for line in lines), reverse=True)[:3]
    assert [each["bytes"] for each in report["biggest"]] == [size for size in sizes if size]
    for entry in known.entries:
        if isinstance(entry.value, HashValue) and not entry.value.duplicates:
            assert counts[entry.db, entry.key] == len(entry.value.fields)


@given(snapshots(), st.integers(0, 1 << 30), st.integers(0, 255))
@example(Snapshot(False, 9, [Entry(0, b"k", 1, ListValue([b"x" * 300]))]), 20, 0xC3)
@FUZZ
def test_broken_bytes_end_in_an_error_of_ours(snapshot: Snapshot, place: int, value: int) -> None:
    """A changed byte gives a DecodeError or other output, never anything else."""
    data = bytearray(encode(snapshot))
    data[place % len(data)] = value
    for handler in (EventHandler(chunk_bytes=64), StatsHandler(), KeyHandler(chunk_bytes=64)):
        try:
            run(bytes(data), handler, chunk_bytes=64)
        except DecodeError:
            continue
