"""Every value type reaches every target, whatever the split of the input and the limits."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import model
from tests.oracle.apply import Stored, Target
from tests.oracle.dialects import REDIS_4, REDIS_6, REDIS_7_0, REDIS_7_4, REDIS_8_10, SPECS, VALKEY_8, VALKEY_9, Spec
from tests.oracle.drive import SMALL, TINY, Limits, run
from tests.oracle.expect import check
from tests.oracle.pack import Style
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import FAR_MS, PAST_MS, REDIS_SINCE, VALKEY_TYPES, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Feed = Callable[[bytes], Iterator[bytes]]

FEW = settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
BY_SPEC = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


@pytest.mark.parametrize("kind", sorted(REDIS_SINCE))
@pytest.mark.parametrize("limits", [Limits(), SMALL, TINY], ids=["default", "small", "tiny"])
@pytest.mark.sampled(40)
def test_every_type_reaches_every_target(kind: int, limits: Limits) -> None:
    """Values of one type, in every form of it, arrive at every kind of target as the oracle reads them."""

    @given(snapshots(kinds=[kind]), st.one_of(st.none(), st.integers(0, 1 << 30)))
    @FEW
    def check_one(snapshot: model.Snapshot, style: int | None) -> None:
        data = encode(snapshot, Style(style))
        for spec in SPECS:
            check(decode(data), run(data, spec, limits=limits))

    check_one()


def test_redis_4_keeps_every_expiry() -> None:
    """RESTORE takes no ABSTTL there, and no idle time: PEXPIREAT says when a value expires, what is idle is counted."""
    kinds: dict[int, model.Value] = {
        0: b"text",
        14: model.ListValue([b"a", b"b"]),
        2: model.SetValue({b"a", b"b"}),
        5: model.ZsetValue({b"a": 1.5}),
        4: model.HashValue({b"f": b"v"}),
    }
    entries = [model.Entry(0, b"key:%d" % kind, kind, value, FAR_MS, idle=kind) for kind, value in kinds.items()]
    entries += [model.Entry(0, b"for ever:%d" % kind, kind, value) for kind, value in kinds.items()]
    data = encode(model.Snapshot(False, 9, entries))
    done = run(data, REDIS_4)  # refuses other options
    for entry in entries:
        stored = done.target.databases[0][entry.key]
        assert (stored.value, stored.expire_ms) == (entry.value, entry.expire_ms)
    assert done.statistics()["idle_dropped"] == len(kinds)


def one_of_each() -> model.Snapshot:
    """A snapshot of the newest Redis version with one value of every type but GCRA."""
    plain: dict[int, model.Value] = {
        0: b"text",
        **dict.fromkeys((1, 10, 14, 18), model.ListValue([b"a", b"", b"1", b"x" * 30, b"-128"])),
        **dict.fromkeys((2, 20), model.SetValue({b"a", b"5", b"x" * 30})),
        11: model.SetValue({b"-5", b"0", b"70000"}),
        **dict.fromkeys((3, 5, 12, 17), model.ZsetValue({b"a": 1.5, b"b": float("-inf"), b"5": 7.0})),
        **dict.fromkeys((4, 9, 13, 16, 29, 30, 31, 32), model.HashValue({b"f": b"v", b"": b"", b"5": b"x" * 30})),
        **dict.fromkeys((22, 23, 24, 25), model.HashValue({b"f": b"v", b"g": b""}, {b"f": FAR_MS})),
        **dict.fromkeys(
            (15, 19, 21, 26, 27), model.StreamValue([((5, 0), [(b"f", b"v")])], 1, (5, 1), (5, 0), (1, 0), 9)
        ),
        7: model.ModuleValue("vectorset", 1, [("uint", 5), ("string", b"x")]),
        28: model.ArrayValue({1: b"a", 7: b"55", 9: b"1.5"}, 9),
    }
    entries = [model.Entry(kind % 3, b"key:%d" % kind, kind, value) for kind, value in plain.items()]
    return model.Snapshot(
        False,
        15,
        sorted(entries, key=lambda entry: entry.db),
        templates={5: [b"f", b"", b"5"]},
        functions=[b"#!lua name=x\n"],
    )


@BY_SPEC
def test_every_split_of_every_type(spec: Spec, feed: Feed) -> None:
    """One value of each type, fed in every way, to every target."""
    data = encode(one_of_each())
    snapshot = decode(data)
    for limits in (Limits(), TINY):
        result = run(data, spec, feed=feed, limits=limits)
        check(snapshot, result)
        assert result.target.functions == ({b"x": b"#!lua name=x\n"} if "function" in spec.commands else {})


def test_types_of_valkey_are_chosen_by_magic() -> None:
    """Type 22 means one thing under REDIS and another under VALKEY."""
    value = model.HashValue({b"f": b"v", b"g": b"w"}, {b"f": FAR_MS})
    for valkey, version in ((True, 80), (False, 12)):
        data = encode(model.Snapshot(valkey, version, [model.Entry(0, b"k", 22, value)]))
        assert run(data, VALKEY_9).target.databases[0][b"k"].value == value


@BY_SPEC
def test_attributes_go_with_the_key(spec: Spec) -> None:
    """IDLE reaches targets with LRU, FREQ those with LFU; the other one is counted; none reaches the next key."""
    entries = [
        model.Entry(0, b"idle", 0, b"v", idle=77),
        model.Entry(0, b"freq", 1, model.ListValue([b"v"]), freq=255),
        model.Entry(0, b"none", 0, b"v"),
        model.Entry(0, b"timed", 4, model.HashValue({b"f": b"v"}), expire_ms=FAR_MS, idle=1 << 20),
    ]
    data = encode(model.Snapshot(False, 9, entries))
    for policy in ("noeviction", "allkeys-lru", "volatile-lfu"):
        result = run(data, spec.but(maxmemory_policy=policy))
        losses = check(decode(data), result)
        assert (losses.idle_dropped, losses.freq_dropped) == ((2, 0) if "lfu" in policy else (0, 1))


@BY_SPEC
@pytest.mark.parametrize("kind", [0, 4, 16])
def test_expired_keys_do_not_survive(spec: Spec, kind: int) -> None:
    """A key whose expiry has passed is gone from the target, also where it had an older value."""
    value = b"v" if kind == 0 else model.HashValue({b"f": b"v"})
    data = encode(
        model.Snapshot(False, 11, [model.Entry(0, b"k", kind, value, expire_ms=PAST_MS), model.Entry(0, b"l", 0, b"v")])
    )
    for limits in (Limits(), TINY):
        target = Target(spec)
        target.databases[0] = {b"k": Stored(b"older")}
        result = run(data, spec, limits=limits, target=target)
        assert set(target.databases[0]) == {b"l"}
        assert result.statistics()["keys_expired"] == 1
        assert result.lanes.keys == 1


@pytest.mark.parametrize("limits", [Limits(), TINY], ids=["default", "tiny"])
@BY_SPEC
def test_older_values_are_replaced(spec: Spec, limits: Limits) -> None:
    """What the target had under a key, of whatever type, is gone when the new value is there."""
    snapshot = one_of_each()
    target = Target(spec)
    for entry in snapshot.entries:
        older = model.ListValue([b"older"]) if entry.type in (0, 4, 16) else model.HashValue({b"older": b"1"})
        target.databases.setdefault(entry.db, {})[entry.key] = Stored(older, expire_ms=FAR_MS)
    refused = [entry for entry in snapshot.entries if entry.type == 7 or (entry.type == 28 and spec is not REDIS_8_10)]
    for entry in refused:
        del target.databases[entry.db][entry.key]
    data = encode(snapshot)
    check(decode(data), run(data, spec, limits=limits, target=target))


@pytest.mark.parametrize("limits", [Limits(skip_existing=True), Limits(64, 256, 128, 3, skip_existing=True)])
@BY_SPEC
def test_existing_keys_are_left_alone_when_asked(spec: Spec, limits: Limits) -> None:
    """With ``skip_existing`` the target's own keys stay, the others arrive."""
    snapshot = one_of_each()
    snapshot.entries = [entry for entry in snapshot.entries if entry.type not in (7, 28)]
    target = Target(spec)
    own = snapshot.entries[::2]
    for entry in own:
        target.databases.setdefault(entry.db, {})[entry.key] = Stored(b"own")
    data = encode(snapshot)
    result = run(data, spec, limits=limits, target=target)
    assert result.lanes.spared == len(own)
    for entry in snapshot.entries:
        stored = target.databases[entry.db][entry.key]
        assert (stored.value == b"own") == (entry in own), entry.key


EMPTY: dict[str, tuple[int, model.Value]] = {
    "list": (1, model.ListValue([])),
    "set": (2, model.SetValue(set())),
    "zset": (5, model.ZsetValue({})),
    "hash": (4, model.HashValue({})),
    "zipmap": (9, model.HashValue({})),
    "list ziplist": (10, model.ListValue([])),
    "intset": (11, model.SetValue(set())),
    "zset ziplist": (12, model.ZsetValue({})),
    "hash ziplist": (13, model.HashValue({})),
    "quicklist": (14, model.ListValue([])),
    "hash listpack": (16, model.HashValue({})),
    "zset listpack": (17, model.ZsetValue({})),
    "quicklist 2": (18, model.ListValue([])),
    "set listpack": (20, model.SetValue(set())),
    "hash metadata": (24, model.HashValue({})),
    "hash listpack ex": (25, model.HashValue({})),
    "template": (31, model.HashValue({})),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("limits", [Limits(), TINY, Limits(skip_existing=True)], ids=["default", "tiny", "skip"])
def test_keys_without_elements_are_filtered(name: str, limits: Limits) -> None:
    """A key without a single element is skipped and counted, as servers do when they load a file."""
    kind, value = EMPTY[name]
    data = encode(model.Snapshot(False, 15, [model.Entry(0, b"empty", kind, value), model.Entry(0, b"k", 0, b"v")]))
    for spec in (VALKEY_9, REDIS_6, REDIS_8_10):
        result = run(data, spec, limits=limits)
        check(decode(data), result)
        assert result.statistics()["keys_filtered"] == 1


@pytest.mark.parametrize("spec", [VALKEY_9, REDIS_8_10, REDIS_6], ids=lambda spec: spec.name)
def test_modules_go_only_where_the_module_is(spec: Spec) -> None:
    """A module's value is restored where the module is loaded, else it is a dead letter with the module's name."""
    value = model.ModuleValue(
        "vectorset", 3, [("uint", 1 << 63), ("double", 5), ("float", 7), ("string", bytes(range(200)))]
    )
    data = encode(model.Snapshot(False, 9, [model.Entry(2, b"k", 7, value), model.Entry(2, b"l", 0, b"v")]))
    check(decode(data), run(data, spec.but(modules=frozenset({"vectorset"}))))
    result = run(data, spec)
    check(decode(data), result)
    (letter,) = result.letters
    assert (letter.db, letter.key, letter.offset > 9) == (2, b"k", True)
    assert "vectorset" in letter.type
    result = run(data, spec.but(modules=frozenset({"vectorset"})), limits=TINY)
    assert [letter.key for letter in result.letters] == [b"k"], "too large for one RESTORE: nothing else carries it"


@BY_SPEC
def test_what_no_command_carries_is_a_dead_letter(spec: Spec) -> None:
    """Values that the target cannot hold in any form are named and counted; the keys around them arrive."""
    entries = [
        model.Entry(1, b"a", 0, b"v"),
        model.Entry(1, b"gcra", 33, model.NumberValue(5)),
        model.Entry(1, b"array", 28, model.ArrayValue({3: b"x"}, 3)),
        model.Entry(1, b"z", 0, b"v"),
    ]
    data = encode(model.Snapshot(False, 15, entries))
    result = run(data, spec)
    losses = check(decode(data), result)
    assert {letter.key for letter in result.letters} == {key for _, key in losses.refused}
    assert {b"a", b"z"} <= set(result.target.databases[1])


def test_half_imported_slots_are_left_out() -> None:
    """Keys in slots that the source was importing come again from their owner; they are counted as filtered."""
    entries = [
        model.Entry(0, b"foo", 0, b"slot 12182"),
        model.Entry(0, b"bar", 4, model.HashValue({b"slot": b"5061"})),
        model.Entry(0, b"{foo}2", 0, b"v"),
    ]
    data = encode(model.Snapshot(True, 80, entries, slot_imports=[(b"j" * 40, [(0, 100), (12182, 12182)])]))
    result = run(data, VALKEY_9)
    assert set(result.target.databases[0]) == {b"bar"}
    assert result.statistics()["keys_filtered"] == 2


def test_every_key_is_in_the_slot_that_clusters_give_it() -> None:
    """The slot is CRC-16/XMODEM of the hash tag, if there is one, else of the name, however long that is."""
    tags = {b"{a}b": b"a", b"{}a": b"{}a", b"a{b": b"a{b", b"{{a}}": b"{a", b"a{b}{c}": b"b"}
    names = [b"", bytes(range(256)), b"long" * 10_000, *(b"key:%d" % n for n in range(500)), *tags]
    entries = [model.Entry(0, name, 0, b"v") for name in names]
    imported = {binascii.crc_hqx(tags.get(name, name), 0) % 16384 for name in names[::2]}
    ranges = [(slot, slot) for slot in sorted(imported)]
    data = encode(model.Snapshot(True, 80, entries, slot_imports=[(b"j" * 40, ranges)]))
    left = {name for name in names if binascii.crc_hqx(tags.get(name, name), 0) % 16384 not in imported}
    assert set(run(data, VALKEY_9).target.databases[0]) == left


def test_key_metadata_goes_only_to_targets_that_know_it() -> None:
    """KEY_META is part of the payload for Redis 8.6 and newer; elsewhere it is dropped and counted."""
    meta: list[tuple[int, list[tuple[str, int | float | bytes]]]] = [(0x41424301, [("uint", 5), ("string", b"m")])]
    entries = [
        model.Entry(0, b"k", 4, model.HashValue({b"f": b"v"}), meta=meta),
        model.Entry(0, b"s", 0, b"v", meta=meta),
    ]
    data = encode(model.Snapshot(False, 13, entries))
    result = run(data, REDIS_8_10)
    assert [stored.meta for stored in result.target.databases[0].values()] == [1, 1]
    for spec in (VALKEY_9, REDIS_7_4):
        result = run(data, spec)
        check(decode(data), result)
        assert result.statistics()["meta_dropped"] == 2


def test_strings_go_in_runs() -> None:
    """Plain strings share MSETs where the target allows it, cut by elements and bytes; the others are single SETs."""
    entries = [
        model.Entry(0, b"k%d" % n, 0, b"v" * (n % 50), expire_ms=FAR_MS if n % 100 == 99 else None) for n in range(2000)
    ]
    data = encode(model.Snapshot(False, 11, entries))
    result = run(data, VALKEY_9)
    check(decode(data), result)
    assert result.lanes.commands[b"SET"] == 20
    assert result.lanes.commands[b"MSET"] <= 22
    result = run(data, VALKEY_9.but(mset=False))
    check(decode(data), result)
    assert result.lanes.commands[b"SET"] == 2000


def test_small_values_are_restored_whole() -> None:
    """What the target knows goes as RESTORE with a footer that it accepts; so do streams, in an older version of theirs."""
    data = encode(one_of_each())
    for spec in (VALKEY_9, VALKEY_8, REDIS_8_10, REDIS_7_0, REDIS_6):
        result = run(data, spec)
        for entry in decode(data).entries:
            by_commands = entry.type in (0, 7, 29, 31) or (entry.type == 22 and not spec.valkey) or entry.type == 27
            if (spec.knows(entry.type) and not by_commands) or entry.type in (19, 21, 26):
                restored = result.target.databases[entry.db][entry.key].restored
                assert restored or (spec.valkey and entry.type == 22), (spec.name, entry.type)


def test_every_type_is_tried() -> None:
    """The types of Valkey are among those tested."""
    assert set(VALKEY_TYPES) <= set(REDIS_SINCE)
