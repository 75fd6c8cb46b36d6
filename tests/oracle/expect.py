"""What must have reached a target of a given kind from a snapshot, and what may be missing if it is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.oracle import model

if TYPE_CHECKING:
    from tests.oracle.apply import Stored
    from tests.oracle.dialects import Spec
    from tests.oracle.drive import Run


@dataclass(slots=True)
class Losses:
    """What commands could not carry to this target, by the names of ``SnapshotDecoder.statistics``."""

    field_ttl_dropped: int = 0
    idle_dropped: int = 0
    freq_dropped: int = 0
    meta_dropped: int = 0
    stream_meta: int = 0
    refused: list[tuple[int, bytes]] = field(default_factory=list)


def check(snapshot: model.Snapshot, run: Run) -> Losses:
    """Compares the model with the oracle's snapshot.

    Raises:
        AssertionError: something is missing, different or unexpected, or a loss was not counted.

    Returns:
        What this target cannot hold.
    """
    spec, target = run.target.spec, run.target
    losses = Losses()
    wanted: set[tuple[int, bytes]] = set()
    given_up = {(letter.db, letter.key) for letter in run.letters if "field names" in letter.reason}
    expired = 0
    for entry in snapshot.entries:
        where = f"db {entry.db} key {entry.key[:80]!r} type {entry.type}"
        if len(entry.key) > run.limits.chunk_bytes:  # cannot be repeated in every command
            losses.refused.append((entry.db, b""))
            continue
        if not representable(entry, spec):
            losses.refused.append((entry.db, entry.key))
            continue
        stored = target.databases.get(entry.db, {}).get(entry.key)
        if stored is None and (entry.db, entry.key) in given_up and long_names(entry.value, run.limits.chunk_bytes):
            losses.refused.append((entry.db, entry.key))
            continue
        if entry.expire_ms is not None and entry.expire_ms <= target.now_ms:
            expired += 1
            continue
        assert stored is not None, f"{where} is missing"
        wanted.add((entry.db, entry.key))
        check_entry(entry, stored, spec, losses, where)
    there = {(db, key) for db, keys in target.databases.items() for key in keys}
    assert there == wanted, f"unexpected keys: {sorted(there - wanted)[:5]}"
    _check_counters(snapshot, run, losses, expired)
    return losses


def _check_counters(snapshot: model.Snapshot, run: Run, losses: Losses, expired: int) -> None:
    statistics = run.statistics()
    failed = len(losses.refused)
    assert statistics["keys_failed"] == failed
    assert statistics["keys_expired"] == expired
    assert statistics["keys_filtered"] == len(snapshot.empty)
    assert statistics["keys"] == len(snapshot.entries) + len(snapshot.empty)
    assert run.lanes.keys == len(snapshot.entries) - failed - expired, "applied + filtered + expired + failed = read"
    # Attributes of keys that are refused or expired may be counted or not.
    others = len(snapshot.entries) - run.lanes.keys
    for name in ("idle_dropped", "freq_dropped"):
        assert 0 <= statistics[name] - getattr(losses, name) <= others, f"{name} is {statistics[name]}"
    if not others:
        assert statistics["field_ttl_dropped"] == losses.field_ttl_dropped
    named = {(letter.db, letter.key) for letter in run.letters}
    assert set(losses.refused) <= named


def representable(entry: model.Entry, spec: Spec) -> bool:
    """Whether this target can hold the value in some form."""
    if isinstance(entry.value, model.ModuleValue):
        return entry.value.name in spec.modules
    if isinstance(entry.value, model.NumberValue):
        return spec.knows(entry.type)
    if isinstance(entry.value, model.ArrayValue):
        return spec.knows(entry.type) or "armset" in spec.commands
    return True


def long_names(value: model.Value, chunk_bytes: int) -> bool:
    """A stream's field names are kept while its entries are read, so there is a limit to their size."""
    if not isinstance(value, model.StreamValue):
        return False
    sizes = [[len(name) for name, _ in fields] for _, fields in value.entries]
    return any(max(each, default=0) > chunk_bytes or sum(each) + 8 * len(each) > 2 * chunk_bytes for each in sizes)


def check_entry(entry: model.Entry, stored: Stored, spec: Spec, losses: Losses, where: str) -> None:
    """One key: attributes and value."""
    expire_ms = None if entry.expire_ms is None else max(entry.expire_ms, 1)
    assert stored.expire_ms == expire_ms, f"{where}: expiry {stored.expire_ms}, not {expire_ms}"
    lfu = "lfu" in spec.maxmemory_policy
    idle, freq = (None if lfu else entry.idle), (entry.freq if lfu else None)
    if stored.restored:
        assert (stored.idle, stored.freq) == (idle, freq), f"{where}: idle or freq"
        value = entry.value
        if isinstance(value, model.StreamValue) and stored.value != value:
            value = in_older_form(value, 3 if spec.since(redis=(7, 2)) else 2 if spec.since(redis=(7, 0)) else 1)
        assert stored.value == value or _same(value, stored.value), f"{where}: restored value differs"
    else:
        losses.idle_dropped += idle is not None
        losses.freq_dropped += freq is not None
        check_value(entry.value, stored.value, spec, losses, where)
    losses.idle_dropped += lfu and entry.idle is not None
    losses.freq_dropped += not lfu and entry.freq is not None


def in_older_form(value: model.StreamValue, version: int) -> model.StreamValue:
    """What an older encoding of the stream can say; it keeps everything that its release knows."""
    groups = {
        name: replace(
            group,
            entries_read=group.entries_read if version > 1 else None,
            consumers={
                consumer: model.Consumer(times.seen_ms, times.active_ms if version > 2 else None)
                for consumer, times in group.consumers.items()
            },
        )
        for name, group in value.groups.items()
    }
    older = replace(value, groups=groups, dedup=None, producers={}, dedup_totals=None)
    return older if version > 1 else replace(older, first_id=None, max_deleted_id=None, entries_added=None)


def _same(one: model.Value, other: model.Value) -> bool:
    """Equal but for NaN, which differs from itself."""
    if not (isinstance(one, model.ZsetValue) and isinstance(other, model.ZsetValue)):
        return False
    return repr(sorted(one.scores.items())) == repr(sorted(other.scores.items()))


def check_value(value: model.Value, stored: model.Value, spec: Spec, losses: Losses, where: str) -> None:
    """A value that went through commands."""
    assert type(value) is type(stored), f"{where}: became {type(stored).__name__}"
    if isinstance(value, model.HashValue) and isinstance(stored, model.HashValue):
        check_hash(value, stored, spec, losses, where)
    elif isinstance(value, model.StreamValue) and isinstance(stored, model.StreamValue):
        check_stream(value, stored, spec, losses, where)
    elif isinstance(value, model.ArrayValue) and isinstance(stored, model.ArrayValue):
        assert (value.insert, value.slots) == (stored.insert, stored.slots), f"{where}: slots"
    elif isinstance(value, model.ListValue | bytes):
        assert value == stored, f"{where}: differs"
    elif isinstance(value, model.SetValue) and isinstance(stored, model.SetValue):
        assert value.members == stored.members, f"{where}: members differ"
    elif isinstance(value, model.ZsetValue) and isinstance(stored, model.ZsetValue):
        finite = {member: score for member, score in value.scores.items() if not math.isnan(score)}
        assert finite == stored.scores, f"{where}: scores differ"


def check_hash(value: model.HashValue, stored: model.HashValue, spec: Spec, losses: Losses, where: str) -> None:
    """Fields and their expiry, as far as the target knows that."""
    assert value.fields == stored.fields, f"{where}: fields differ"
    if "hpexpireat" in spec.commands or "hsetex" in spec.commands:
        assert value.expires == stored.expires, f"{where}: expiry of fields differs"
    else:
        assert not stored.expires
        losses.field_ttl_dropped += len(value.expires)


def check_stream(value: model.StreamValue, stored: model.StreamValue, spec: Spec, losses: Losses, where: str) -> None:
    """Entries, counters, groups and at least those pending entries whose data still exists."""
    assert value.entries == stored.entries, f"{where}: entries differ"
    assert value.last_id == stored.last_id, f"{where}: last id {stored.last_id}, not {value.last_id}"
    counts = spec.since(redis=(7, 0))
    if counts:
        added = len(value.entries) if value.entries_added is None else value.entries_added
        assert stored.entries_added == max(added, len(value.entries)), f"{where}: entries added"
        assert stored.max_deleted_id == (value.max_deleted_id or (0, 0)), f"{where}: max deleted id"
    assert value.groups.keys() == stored.groups.keys(), f"{where}: groups"
    there = {entry_id for entry_id, _ in value.entries}
    for name, group in value.groups.items():
        other = stored.groups[name]
        assert other.last_id == group.last_id, f"{where}: last delivered id of group {name!r}"
        if counts:
            assert other.entries_read == (-1 if group.entries_read is None else group.entries_read)
        keepable = {
            entry_id: pending
            for entry_id, pending in group.pending.items()
            if entry_id in there and pending.consumer is not None
        }
        # RESTORE keeps pending entries whose data is gone, element commands cannot.
        losses.stream_meta += len(group.pending) - len(other.pending)
        assert keepable.items() <= other.pending.items() <= group.pending.items(), f"{where}: pending of group {name!r}"
        if spec.since(redis=(6, 2)):
            assert other.consumers.keys() == group.consumers.keys(), f"{where}: consumers of group {name!r}"
    losses.stream_meta += len(value.producers)
