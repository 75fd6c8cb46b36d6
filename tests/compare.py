"""Are two live servers equal? Digests first, then everything that a digest does not see.

``DEBUG DIGEST`` covers values and whether a key expires. It misses when a key expires, expiry of hash fields, stream
groups with their pending entries, LRU and LFU data and functions; those are read from both servers. Servers of
different versions print scores differently into the digest, so a key whose digests differ is read and compared.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hiredis

from portd.target.kept.postponed import LEAST_SHIFT_MS, LINK_MS
from tests.reading import (
    READERS,
    read_field_expiries,
    read_functions,
    read_old_stream_state,
    read_stream_state,
)
from tests.wire import Argument, Wire

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.servers import Server

CHECKPOINTS = b"portd:checkpoint:"
KEYS_AT_ONCE = 1000
RELATIVE_TTL_TOLERANCE_MS = 20  # where only PTTL exists (before 7.0), the expiry is computed from two clocks' readings
IDLE_TOLERANCE_SECONDS = 3
# Differences that an older target has no place for: expiry times of fields, counters of streams and groups.
LOSSES = re.compile(r"field expir|entries-added|max-deleted|entries-read", re.IGNORECASE)

# Type, expiry in unix ms (-1 none, -2 no such key) and encoding of each key.
METADATA_SCRIPT = """
local absolute = ARGV[1] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)['ok']
  local expiry
  if absolute then
    expiry = redis.call('PEXPIRETIME', key)
  else
    expiry = redis.call('PTTL', key)
    if expiry >= 0 then expiry = expiry + now end
  end
  out[#out + 1] = kind
  out[#out + 1] = expiry
  out[#out + 1] = (kind == 'hash') and redis.call('OBJECT', 'ENCODING', key) or ''
end
return out
"""


@dataclass(slots=True)
class End:
    """One of the two servers, and what it can be asked."""

    wire: Wire
    absolute_ttl: bool  # PEXPIRETIME
    field_ttl: bool  # HPEXPIRETIME
    functions: bool
    full_streams: bool  # XINFO STREAM FULL
    policy: str

    @classmethod
    def of(cls, server: Server) -> End:
        """Connects to a running server."""
        wire = Wire(server)
        binary = server.binary
        return cls(
            wire,
            absolute_ttl=binary.at_least(redis=(7, 0), valkey=(0,)),
            field_ttl=binary.at_least(redis=(7, 4), valkey=(9, 0)),
            functions=binary.at_least(redis=(7, 0), valkey=(0,)),
            full_streams=binary.at_least(redis=(6, 0), valkey=(0,)),
            policy=wire.call("CONFIG", "GET", "maxmemory-policy")[1].decode(),
        )

    def ask_metadata(self, keys: list[bytes]) -> None:
        """Sends the question that ``metadata`` reads the answer to."""
        self.wire.post("EVAL", METADATA_SCRIPT, len(keys), *keys, int(self.absolute_ttl))

    def metadata(self) -> list[tuple[bytes, int, bytes]]:
        """(type, expiry, encoding) of each key asked for."""
        flat = self.wire.take()
        return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))

    def scan(self, db: int) -> Iterator[list[bytes]]:
        """All keys of a database but the checkpoints."""
        cursor: bytes = b"0"
        while True:
            self.wire.call("SELECT", db)
            cursor, keys = self.wire.call("SCAN", cursor, "COUNT", KEYS_AT_ONCE)
            keys = [key for key in dict.fromkeys(keys) if not key.startswith(CHECKPOINTS)]
            if keys:
                yield keys
            if cursor == b"0":
                return

    def has_checkpoint(self) -> bool:
        """A checkpoint lies in database 0."""
        self.wire.call("SELECT", 0)
        return bool(self.wire.call("KEYS", CHECKPOINTS + b"*"))


@dataclass(slots=True)
class Differences:
    """What was found, in words; bounded."""

    limit: int
    ignored: Collection[tuple[int, bytes]] = ()
    found: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, db: int, key: bytes, what: str) -> None:
        """Notes one difference of a key."""
        if (db, key) not in self.ignored:
            self.note(f"db {db} key {_shown(key)}: {what}")

    def note(self, what: str) -> None:
        """Notes one difference."""
        if len(self.found) < self.limit:
            self.found.append(what)
        else:
            self.more += 1

    def lines(self) -> list[str]:
        """All that was noted."""
        return [*self.found, f"... and {self.more} more"] if self.more else self.found


def compare(
    source: Server,
    target: Server,
    *,
    recency: bool = False,
    consumer_times: bool = False,
    postponed: bool = False,
    ignored: Collection[tuple[int, bytes]] = (),
    limit: int = 100,
) -> list[str]:
    """Compares two servers in every respect; both should be at rest.

    Args:
        source: a running server.
        target: another one; keys under ``portd:checkpoint:`` do not count on either.
        recency: also compare OBJECT FREQ or IDLETIME, where both have a policy that keeps them.
        consumer_times: also compare when stream consumers were last seen and active.
        postponed: expiries that the target has later by a link's shift are equal.
        ignored: keys, by database and name, that may differ.
        limit: differences described at most.

    Returns:
        One line for each difference, none when the servers are equal.
    """
    ends = End.of(source), End.of(target)
    comparison = Comparison(*ends, Differences(limit, ignored), consumer_times=consumer_times, postponed=postponed)
    try:
        comparison.run(recency=recency)
    finally:
        comparison.close()
    return comparison.differences.lines()


async def compare_later(source: Server, target: Server, **options: Any) -> list[str]:
    """``compare`` in a thread, for tests whose event loop has other work."""
    return await asyncio.to_thread(compare, source, target, **options)


def assert_equal(source: Server, target: Server, **options: Any) -> None:
    """Fails with the differences unless both servers are equal."""
    differences = compare(source, target, **options)
    assert not differences, f"{source!r} and {target!r} differ:\n" + "\n".join(differences)


class Comparison:
    """One comparison of two ends."""

    def __init__(
        self, source: End, target: End, differences: Differences, *, consumer_times: bool, postponed: bool
    ) -> None:
        self._postponed = postponed
        self.source = source
        self.target = target
        self.ends = (source, target)
        self.differences = differences
        self._consumer_times = consumer_times
        self._field_ttl = all(end.field_ttl for end in self.ends)
        self._tolerance = 0 if all(end.absolute_ttl for end in self.ends) else RELATIVE_TTL_TOLERANCE_MS

    def run(self, *, recency: bool) -> None:
        """Compares everything."""
        if recency:
            for db in self._databases():
                self._recency(db)
        same_values = self._same_digest()
        for db in self._databases():
            self._database(db, same_values=same_values)
        self._functions()

    def close(self) -> None:
        """Closes both connections."""
        for end in self.ends:
            end.wire.close()

    def _databases(self) -> list[int]:
        used: set[int] = set()
        for end in self.ends:
            for line in end.wire.call("INFO", "keyspace").decode().splitlines():
                if line.startswith("db"):
                    used.add(int(line[2 : line.index(":")]))
        return sorted(used)

    def _same_digest(self) -> bool:
        """Whether the digests of whole servers can be told, and agree."""
        if any(end.has_checkpoint() for end in self.ends):
            return False
        first, second = self._both("DEBUG", "DIGEST")
        return bool(first == second)

    def _both(self, *command: Argument) -> tuple[Any, Any]:
        for end in self.ends:
            end.wire.post(*command)
        return self.source.wire.take(), self.target.wire.take()

    def _metadata(self, keys: list[bytes]) -> tuple[list[tuple[bytes, int, bytes]], list[tuple[bytes, int, bytes]]]:
        for end in self.ends:
            end.ask_metadata(keys)
        return self.source.metadata(), self.target.metadata()

    def _database(self, db: int, *, same_values: bool) -> None:
        seen = 0
        missing = False
        suspects: list[bytes] = []
        for keys in self.source.scan(db):
            self._both("SELECT", db)
            seen += len(keys)
            for key, here, there in self._differing(keys, same_values=same_values):
                suspects.append(key)
                missing = missing or there[0] == b"none" or here[0] == b"none"
        self._both("SELECT", db)
        if missing or seen != self.target.wire.call("DBSIZE") - self._checkpoints(db):
            suspects += self._only_in_target(db)
        for key in dict.fromkeys(suspects):
            self._key(db, key)

    def _checkpoints(self, db: int) -> int:
        return len(self.target.wire.call("KEYS", CHECKPOINTS + b"*")) if db == 0 else 0

    def _only_in_target(self, db: int) -> list[bytes]:
        found = []
        for keys in self.target.scan(db):
            self.source.wire.call("SELECT", db)
            exists = self.source.wire.many([("EXISTS", key) for key in keys])
            found += [key for key, there in zip(keys, exists, strict=True) if not there]
        return found

    def _differing(
        self, keys: list[bytes], *, same_values: bool
    ) -> Iterator[tuple[bytes, tuple[bytes, int, bytes], tuple[bytes, int, bytes]]]:
        """Keys that need a closer look, with their metadata on both ends."""
        here, there = self._metadata(keys)
        digests: tuple[list[Any], list[Any]] = ([b""] * len(keys),) * 2
        if not same_values:
            digests = self._both("DEBUG", "DIGEST-VALUE", *keys)
        for key, one, other, first, second in zip(keys, here, there, *digests, strict=True):
            plain = one[0] != b"stream" and not (self._field_ttl and one[2] == b"hashtable")
            if not (plain and one[0] == other[0] and self._same_expiry(one[1], other[1]) and first == second):
                yield key, one, other

    def _same_expiry(self, one: int, other: int) -> bool:
        if one < 0 or other < 0:
            return one == other
        if abs(one - other) <= self._tolerance:
            return True
        return self._postponed and other >= LEAST_SHIFT_MS and abs(one - other % LINK_MS) <= self._tolerance

    def _key(self, db: int, key: bytes) -> None:
        """Everything about one key, read again from both ends."""
        one, other = (answer[0] for answer in self._metadata([key]))
        first, second = (digest[0] for digest in self._both("DEBUG", "DIGEST-VALUE", key))
        if one[0] == other[0] == b"none":
            return  # expired on both since
        if b"none" in (one[0], other[0]):
            where = "target" if other[0] == b"none" else "source"
            present = one if where == "target" else other
            self.differences.add(db, key, f"missing in {where} ({present[0].decode()}, expires {present[1]})")
            return
        if one[0] != other[0]:
            self.differences.add(db, key, f"type {one[0].decode()} became {other[0].decode()}")
            return
        if not self._same_expiry(one[1], other[1]):
            self.differences.add(db, key, f"{one[0].decode()} expires at {one[1]} and at {other[1]}")
        kind = one[0].decode()
        if first != second and (what := self._values(kind, key)):
            self.differences.add(db, key, f"{kind} {what}")
        if kind == "stream":
            for what in self._streams(key):
                self.differences.add(db, key, what)
        if kind == "hash" and self._field_ttl and (what := self._field_expiries(key)):
            self.differences.add(db, key, what)

    def _values(self, kind: str, key: bytes) -> str:
        """How two values of one type differ, "" when they are equal after all."""
        reader = READERS.get(kind)
        if reader is None:
            return "digests differ"
        one, other = (reader(end.wire, key) for end in self.ends)
        return _describe(one, other)

    def _field_expiries(self, key: bytes) -> str:
        one, other = (dict(read_field_expiries(end.wire, key)) for end in self.ends)
        what = _describe(one, other)
        return f"field expiry {what}" if what else ""

    def _streams(self, key: bytes) -> list[str]:
        if all(end.full_streams for end in self.ends):
            one, other = (read_stream_state(end.wire, key, times=self._consumer_times) for end in self.ends)
        else:
            one, other = (read_old_stream_state(end.wire, key) for end in self.ends)
        lost = [name for name in one.keys() ^ other.keys() if name[-2] in {"group", "consumer"}]
        found = [f"stream {_path(name)} is only on one end" for name in sorted(lost, key=repr)]
        for name in sorted(one.keys() & other.keys(), key=repr):
            what = _describe(one[name], other[name])
            found += [f"stream {_path(name)} {what}"] if what else []
        return found

    def _recency(self, db: int) -> None:
        policies = [end.policy for end in self.ends]
        if all("lfu" in policy for policy in policies):
            word, tolerance = "FREQ", 0
        elif not any("lfu" in policy for policy in policies):
            word, tolerance = "IDLETIME", IDLE_TOLERANCE_SECONDS
        else:
            return
        for keys in self.source.scan(db):
            self._both("SELECT", db)
            answers = [end.wire.many([("OBJECT", word, key) for key in keys], errors=True) for end in self.ends]
            for key, one, other in zip(keys, *answers, strict=True):
                if not (isinstance(one, int) and isinstance(other, int)) or abs(one - other) > tolerance:
                    self.differences.add(db, key, f"OBJECT {word} {one} became {other}")

    def _functions(self) -> None:
        if not all(end.functions for end in self.ends):
            return
        one, other = (read_functions(end.wire) for end in self.ends)
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                self.differences.note(f"function library {_shown(name)} differs or is missing")


def _describe(one: Any, other: Any) -> str:
    """How two plain values differ, "" when they do not."""
    if one == other:
        return ""
    if isinstance(one, dict) and isinstance(other, dict):
        lost, added = one.keys() - other.keys(), other.keys() - one.keys()
        changed = [name for name in one.keys() & other.keys() if one[name] != other[name]]
        sample = next(iter([*lost, *added, *changed]))
        detail = f"{_text(one.get(sample, 'absent'))} became {_text(other.get(sample, 'absent'))}"
        return f"lost {len(lost)}, added {len(added)}, changed {len(changed)} elements; {_text(sample)}: {detail}"
    if isinstance(one, list) and isinstance(other, list):
        at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        a, b = (_text(each[at]) if at < len(each) else "end" for each in (one, other))
        return f"lengths {len(one)} and {len(other)}, first difference at {at}: {a} became {b}"
    if isinstance(one, bytes) and isinstance(other, bytes):
        at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        return f"lengths {len(one)} and {len(other)}, first difference at {at}: {_text(one)} became {_text(other)}"
    return f"{_text(one)} became {_text(other)}"


def _text(value: Any, limit: int = 60) -> str:
    if isinstance(value, hiredis.ReplyError):
        return str(value)
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def _path(name: tuple[Any, ...]) -> str:
    return " ".join(map(_text, name))


def _shown(key: bytes) -> str:
    return _text(key, 80)
