"""Hypothesis strategies: snapshots of every version with values of every type, long elements included."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.oracle.model import (
    ArrayValue,
    Consumer,
    Entry,
    Group,
    HashValue,
    ListValue,
    ModuleValue,
    NumberValue,
    Pending,
    Producer,
    SetValue,
    Snapshot,
    StreamId,
    StreamValue,
    ZsetValue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FAR_MS = 4_000_000_000_000  # year 2096: not expired while tests run
PAST_MS = 1_500_000_000_000
TOP = (1 << 64) - 1

# PORTD_FUZZ=50 looks 50 times as long, at other examples in each run; without it every run looks at the same ones.
EFFORT = int(os.environ.get("PORTD_FUZZ", "0"))

# First RDB version of each type under the REDIS magic.
REDIS_SINCE = {
    0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 8, 7: 8, 9: 1, 10: 1, 11: 1, 12: 1, 13: 4, 14: 7, 15: 9, 16: 10, 17: 10, 18: 10,
    19: 10, 20: 11, 21: 11, 22: 12, 23: 12, 24: 12, 25: 12, 26: 13, 27: 14, 28: 14, 29: 15, 30: 15, 31: 15, 32: 15,
    33: 14,
}  # fmt: skip
VALKEY_TYPES = [kind for kind, since in REDIS_SINCE.items() if since <= 11] + [22]


def effort(examples: int) -> settings:
    """Settings for a search: so many examples, or more where `PORTD_FUZZ` asks for it."""
    return settings(
        max_examples=examples * max(EFFORT, 1),
        derandomize=not EFFORT,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def types_of(version: int, *, valkey: bool) -> list[int]:
    """Type bytes that a snapshot of this version may hold."""
    return VALKEY_TYPES if valkey else [kind for kind, since in REDIS_SINCE.items() if since <= version]


@st.composite
def texts(draw: st.DrawFn, longest: int = 40, long: int = 700) -> bytes:
    """Binary, numeric, repetitive, empty and now and then long strings."""
    kind = draw(st.integers(0, 11))
    if kind <= 2:
        return b"%d" % draw(st.one_of(st.integers(-200, 200), st.integers(-(1 << 63), (1 << 63) - 1)))
    if kind <= 6:
        return draw(st.binary(max_size=longest))
    if kind <= 8:
        return draw(st.sampled_from([b"a", b"ab", b"abc\x00", b"\r\n$5\r\n"])) * draw(st.integers(1, longest // 4))
    if kind == 9:
        return draw(st.sampled_from([b"", b"-0", b"007", b"+1", b"\xff", b"inf", b"9223372036854775808"]))
    size = draw(st.integers(longest, long))
    if kind == 10:  # LZF packs it, with long overlapping matches
        return (draw(st.binary(min_size=1, max_size=9)) * size)[:size]
    return random.Random(draw(st.integers(0, 1 << 16))).randbytes(size)


def integers_as_text(bits: int = 64) -> st.SearchStrategy[bytes]:
    """Decimal numbers."""
    edge = st.sampled_from([1 << 15, 1 << 31, (1 << 63) - 1, -(1 << 63), 0, -1])
    number = st.one_of(st.integers(-300, 300), st.integers(-(1 << 63), (1 << 63) - 1), edge)
    return number.map(lambda n: b"%d" % n)


scores = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(1 << 53), 1 << 53).map(float),
    st.sampled_from([0.0, -0.0, 1e20, 1e-20, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), 0.1, 3.0]),
)
ids = st.tuples(
    st.one_of(st.integers(0, 50), st.integers(1 << 40, 1 << 41), st.sampled_from([TOP, 1 << 63])),
    st.one_of(st.integers(0, 5), st.sampled_from([TOP, 1 << 63])),
)
past_times = st.integers(0, PAST_MS)


def hashes(*, expires: bool, longest_name: int = 700) -> st.SearchStrategy[HashValue]:
    """Hashes, with TTLs of fields where the type has them."""
    fields = st.dictionaries(
        texts(40, longest_name), st.tuples(texts(), st.one_of(st.none(), st.integers(FAR_MS, 2 * FAR_MS))), min_size=1
    )

    def build(drawn: dict[bytes, tuple[bytes, int | None]]) -> HashValue:
        times = {name: at for name, (_, at) in drawn.items() if at is not None}
        return HashValue({name: value for name, (value, _) in drawn.items()}, times if expires else {})

    return fields.map(build)


@st.composite
def groups(draw: st.DrawFn, entry_ids: list[StreamId], version: int) -> Group:
    """A group with consumers, pending entries that exist and pending entries that are gone."""
    names = draw(st.lists(texts(12, 60), unique=True, max_size=3))
    consumers = {
        name: Consumer(draw(past_times), draw(st.one_of(st.just(-1), past_times)) if version >= 3 else None)
        for name in names
    }
    gone = draw(st.lists(ids, max_size=2, unique=True))
    owners = st.sampled_from(names) if names else st.nothing()
    if version >= 5:
        owners = st.one_of(owners, st.none())
    pending = {}
    if names or version >= 5:
        chosen = draw(st.lists(st.sampled_from(entry_ids), unique=True, max_size=6)) if entry_ids else []
        pending = {
            entry_id: Pending(draw(owners), draw(past_times), draw(st.integers(0, 100)))
            for entry_id in sorted({*chosen, *gone})
        }
    read = draw(st.one_of(st.just(-1), st.integers(0, 1 << 40))) if version >= 2 else None
    return Group(draw(ids), read, pending, consumers)


@st.composite
def streams(draw: st.DrawFn, version: int) -> StreamValue:
    """Streams; empty ones included."""
    names = draw(st.lists(texts(10, 30), min_size=1, max_size=4))
    entry_ids = sorted(set(draw(st.lists(ids.filter(lambda pair: pair > (0, 0)), max_size=12))))
    entries = []
    for entry_id in entry_ids:
        own = draw(st.lists(texts(10, 60), min_size=1, max_size=4)) if draw(st.integers(0, 2)) == 0 else names
        entries.append((entry_id, [(name, draw(texts())) for name in own]))
    last_id = max([draw(ids), *entry_ids[-1:]])
    stream = StreamValue(entries, len(entries), last_id)
    if version >= 2:
        stream.first_id = entry_ids[0] if entry_ids else (0, 0)
        stream.max_deleted_id = min(draw(ids), last_id)
        stream.entries_added = len(entries) + draw(st.integers(0, 1 << 30))
    for name in draw(st.lists(texts(12, 60), unique=True, max_size=3)):
        stream.groups[name] = draw(groups(entry_ids, version))
    if version >= 4:
        stream.dedup = (draw(st.integers(1, 100)), draw(st.integers(1, 100)))
        stream.dedup_totals = (draw(st.integers(0, 100)), draw(st.integers(0, 100)))
        for name in draw(st.lists(texts(12, 60), unique=True, max_size=2)):
            stream.producers[name] = Producer(draw(st.dictionaries(texts(12, 60), ids, max_size=3)))
    return stream


module_items: st.SearchStrategy[list[tuple[str, int | float | bytes]]] = st.lists(
    st.one_of(
        st.tuples(st.just("uint"), st.integers(0, TOP)),
        st.tuples(st.just("float"), st.integers(0, (1 << 32) - 1)),
        st.tuples(st.just("double"), st.integers(0, TOP)),
        st.tuples(st.just("string"), texts()),
    ),
    max_size=6,
)
modules = st.builds(
    ModuleValue, st.sampled_from(["vectorset", "MBbloom--", "AAAAAAAAA"]), st.integers(0, 1023), module_items
)


@st.composite
def arrays(draw: st.DrawFn) -> ArrayValue:
    """Sparse arrays of text, integers and doubles."""
    slot = st.one_of(texts(40, 60), st.floats(allow_nan=False, allow_infinity=False).map(lambda n: repr(n).encode()))
    slots = draw(st.dictionaries(st.integers(0, 1 << 62), slot, min_size=1, max_size=8))
    return ArrayValue(dict(sorted(slots.items())), draw(st.one_of(st.none(), st.integers(0, 1 << 40))))


STREAM_VERSIONS = {15: 1, 19: 2, 21: 3, 26: 4, 27: 5}
VALUES: dict[int, st.SearchStrategy[Any]] = {
    0: texts(),
    **dict.fromkeys((1, 10, 14, 18), st.lists(texts(), min_size=1, max_size=30).map(ListValue)),
    **dict.fromkeys((2, 20), st.sets(texts(), min_size=1, max_size=30).map(SetValue)),
    11: st.sets(integers_as_text(), min_size=1, max_size=30).map(SetValue),
    **dict.fromkeys((3, 5, 12, 17), st.dictionaries(texts(), scores, min_size=1, max_size=30).map(ZsetValue)),
    **dict.fromkeys((4, 9, 13, 16), hashes(expires=False)),
    **dict.fromkeys((29, 30, 31, 32), hashes(expires=False, longest_name=60)),
    **dict.fromkeys((22, 23, 24, 25), hashes(expires=True)),
    **{kind: streams(version) for kind, version in STREAM_VERSIONS.items()},
    7: modules,
    28: arrays(),
    33: st.integers(0, TOP).map(NumberValue),
}


@st.composite
def entries(draw: st.DrawFn, version: int, *, valkey: bool, kinds: list[int] | None = None) -> Entry:
    """A key with its attributes."""
    kind = draw(st.sampled_from(kinds or types_of(version, valkey=valkey)))
    entry = Entry(draw(st.integers(0, 3)), draw(texts(20, 60)), kind, draw(VALUES[kind]))
    times = st.integers(FAR_MS, 2 * FAR_MS) if version >= 3 else st.integers(1, (1 << 31) - 1).map(lambda n: n * 1000)
    entry.expire_ms = draw(st.one_of(st.none(), st.none(), times, past_times.map(lambda n: n + 1)))
    if version < 3 and entry.expire_ms is not None:
        entry.expire_ms = 1000 * (entry.expire_ms // 1000 % (1 << 31)) or None
    if version >= 9:
        which = draw(st.integers(0, 5))
        entry.idle = draw(st.integers(0, 1 << 30)) if which == 0 else None
        entry.freq = draw(st.integers(0, 255)) if which == 1 else None
    if version >= 13 and not valkey and draw(st.integers(0, 4)) == 0:
        entry.meta = [(draw(st.integers(0, (1 << 32) - 1)), [("uint", draw(st.integers(0, TOP))), ("string", b"meta")])]
    return entry


@st.composite
def snapshots(draw: st.DrawFn, kinds: list[int] | None = None, most: int = 6) -> Snapshot:
    """A snapshot of any version; with *kinds* only of versions that know all of them."""
    versions: list[tuple[bool, int]] = [(False, version) for version in range(1, 16)] + [(True, 80)]
    if kinds is not None:
        versions = [each for each in versions if set(kinds) <= set(types_of(each[1], valkey=each[0]))]
    valkey, version = draw(st.sampled_from(versions))
    snapshot = Snapshot(valkey, version)
    drawn = draw(st.lists(entries(version, valkey=valkey, kinds=kinds), max_size=most))
    unique = {(entry.db, entry.key): entry for entry in drawn}
    snapshot.entries = sorted(unique.values(), key=lambda entry: entry.db)
    if version >= 7:
        snapshot.aux = draw(st.lists(st.tuples(texts(20, 60), texts(60)), max_size=3))
    if version >= 10:
        names = draw(st.lists(st.text("abcdef", min_size=1, max_size=5), unique=True, max_size=2))
        snapshot.functions = [b"#!lua name=%b\n" % name.encode() + draw(texts()) for name in names]
    if version >= 9:
        build: Callable[..., ModuleValue] = lambda n, i: ModuleValue("vectorset", n, [("when", 1), *i])  # noqa: E731
        snapshot.module_aux = draw(st.lists(st.builds(build, st.integers(0, 9), module_items), max_size=1))
    for entry in snapshot.entries:
        if entry.type in (30, 32) and isinstance(entry.value, HashValue):
            number = len(snapshot.templates) + draw(st.integers(0, 3))
            while number in snapshot.templates:
                number += 1
            snapshot.templates[number] = list(entry.value.fields)
    return snapshot
