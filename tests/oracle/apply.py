"""A tiny model of a target: executes the commands that the kernel writes, as strictly as servers do.

It knows only those commands. What a server of the given version would refuse raises ``RefusedError``. After all
batches were executed its databases can be compared with what the oracle decoded from the same snapshot.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tests.oracle.model import (
    ArrayValue,
    Consumer,
    Group,
    HashValue,
    ListValue,
    OracleError,
    Pending,
    SetValue,
    StreamId,
    StreamValue,
    Value,
    ZsetValue,
)
from tests.oracle.rdb import decode_dump

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.oracle.dialects import Spec

V = TypeVar("V")

ZADD_SCRIPT = b"return redis.call('ZADD',KEYS[1],ARGV[2],ARGV[1])"
MAX_BULK = 512 << 20


class RefusedError(Exception):
    """A server would answer with an error."""


@dataclass(slots=True)
class Stored:
    """A key of the model. ``restored``: written by RESTORE, so nothing may have been lost on the way."""

    value: Value
    expire_ms: int | None = None
    idle: int | None = None
    freq: int | None = None
    restored: bool = False
    meta: int = 0


def split_commands(data: bytes) -> list[list[bytes]]:
    """The commands in *data*, which must end behind one."""
    commands = []
    at = 0

    def header(mark: bytes) -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        assert data[at : at + 1] == mark, data[at : at + 20]
        number = int(data[at + 1 : end])
        at = end + 2
        return number

    while at < len(data):
        command = []
        for _ in range(header(b"*")):
            size = header(b"$")
            command.append(data[at : at + size])
            assert data[at + size : at + size + 2] == b"\r\n", data[at + size - 10 : at + size + 10]
            at += size + 2
        commands.append(command)
    return commands


def stream_id(text: bytes) -> StreamId:
    """``ms-seq`` as numbers."""
    ms, seq = text.split(b"-")
    return int(ms), int(seq)


def _check(condition: bool, message: str) -> None:  # noqa: FBT001 - reads like assert
    if not condition:
        raise RefusedError(message)


class Target:
    """Databases, functions and the commands that fill them.

    Args:
        spec: which server this is.
        now_ms: its clock.
    """

    def __init__(self, spec: Spec, now_ms: int | None = None) -> None:
        self.spec = spec
        self.now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self.databases: dict[int, dict[bytes, Stored]] = {}
        self.functions: dict[bytes, bytes] = {}
        self.scripts: dict[bytes, bytes] = {}  # by their SHA1
        self._db = 0

    def execute(self, db: int, command: list[bytes]) -> object:
        """Executes one command.

        Raises:
            RefusedError: the server would answer with an error.
        """
        name = command[0].decode().lower()
        _check(name in self.spec.commands, f"unknown command {name}")
        _check(len(command) >= 2, f"{name} without arguments")
        _check(all(len(argument) <= MAX_BULK for argument in command), "invalid bulk length")
        self._db = db
        handler: Callable[..., object] = getattr(self, f"_{name}")
        return handler(*command[1:])

    @property
    def _keys(self) -> dict[bytes, Stored]:
        return self.databases.setdefault(self._db, {})

    def _value(self, key: bytes, kind: type[V], make: Callable[[], V]) -> V:
        stored = self._keys.get(key)
        if stored is None:
            value = make()
            self._keys[key] = Stored(value)  # type: ignore[arg-type]
            return value
        _check(isinstance(stored.value, kind), "WRONGTYPE")
        return stored.value  # type: ignore[return-value]

    # ------------------------------------------------------------------ keys

    def _unlink(self, *keys: bytes) -> int:
        return sum(self._keys.pop(key, None) is not None for key in keys)

    _del = _unlink

    def _exists(self, *keys: bytes) -> int:
        return sum(key in self._keys for key in keys)

    def _pexpireat(self, key: bytes, at: bytes) -> int:
        if key not in self._keys:
            return 0
        self._expire(key, int(at))
        return 1

    def _expire(self, key: bytes, at: int) -> None:
        self._keys[key].expire_ms = at
        if at <= self.now_ms:
            del self._keys[key]

    def _restore(self, key: bytes, ttl: bytes, payload: bytes, *options: bytes) -> bytes:
        words = list(options)
        stored = Stored(b"", restored=True)
        flags = set()
        while words:
            word = words.pop(0).upper()
            _check(word == b"REPLACE" or self.spec.since(redis=(5, 0)), "syntax error")
            if word in (b"IDLETIME", b"FREQ"):
                number = int(words.pop(0))
                _check(number >= 0 and (word == b"IDLETIME" or number <= 255), f"Invalid {word.decode()} value")
                stored.idle, stored.freq = (number, stored.freq) if word == b"IDLETIME" else (stored.idle, number)
            else:
                _check(word in (b"REPLACE", b"ABSTTL"), "syntax error")
                flags.add(word)
        _check(stored.idle is None or stored.freq is None, "syntax error")
        _check(key not in self._keys or b"REPLACE" in flags, "BUSYKEY Target key name already exists.")
        _check(int(ttl) >= 0, "Invalid TTL value, must be >= 0")
        self._keys.pop(key, None)
        self._load(payload, stored)
        if int(ttl):
            assert b"ABSTTL" in flags, "a relative TTL grows on its way"
            stored.expire_ms = int(ttl)
            if stored.expire_ms <= self.now_ms:
                return b"OK"
        self._keys[key] = stored
        return b"OK"

    def _load(self, payload: bytes, stored: Stored) -> None:
        try:
            dump = decode_dump(payload, valkey=self.spec.valkey)
        except OracleError as error:
            raise RefusedError(f"Bad data format: {error}") from error
        _check(self.spec.accepts(dump.footer), f"DUMP payload version {dump.footer}")
        _check(self.spec.knows(dump.type), f"Bad data format: type {dump.type}")
        _check(not dump.meta or self.spec.since(redis=(8, 6), valkey=None), "Bad data format: key metadata")
        duplicates = getattr(dump.value, "duplicates", 0)
        _check(duplicates == 0, "Bad data format: duplicates")
        if isinstance(dump.value, ZsetValue):
            _check(not any(map(math.isnan, dump.value.scores.values())), "Bad data format: NaN")
        stored.value = dump.value
        stored.meta = len(dump.meta)

    # ------------------------------------------------------- plain collections

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes:
        self._keys[key] = Stored(value)
        if options:
            _check(len(options) == 2 and options[0].upper() == b"PXAT", "syntax error")
            _check(self.spec.since(redis=(6, 2)), "syntax error: PXAT")
            _check(int(options[1]) > 0, "invalid expire time")
            self._expire(key, int(options[1]))
        return b"OK"

    def _mset(self, *pairs: bytes) -> bytes:
        assert self.spec.mset, "MSET to a target that is not standalone"
        _check(len(pairs) % 2 == 0, "wrong number of arguments")
        for key, value in zip(pairs[0::2], pairs[1::2], strict=True):
            self._keys[key] = Stored(value)
        return b"OK"

    def _setrange(self, key: bytes, at: bytes, piece: bytes) -> int:
        old = self._value(key, bytes, bytes)
        padded = old.ljust(int(at), b"\x00")
        new = padded[: int(at)] + piece + padded[int(at) + len(piece) :]
        self._keys[key].value = new
        return len(new)

    def _rpush(self, key: bytes, *elements: bytes) -> int:
        _check(bool(elements), "wrong number of arguments")
        value = self._value(key, ListValue, lambda: ListValue([]))
        value.elements += elements
        return len(value.elements)

    def _sadd(self, key: bytes, *members: bytes) -> int:
        _check(bool(members), "wrong number of arguments")
        value = self._value(key, SetValue, lambda: SetValue(set()))
        before = len(value.members)
        value.members |= set(members)
        return len(value.members) - before

    def _zadd(self, key: bytes, *pairs: bytes) -> int:
        _check(len(pairs) >= 2 and len(pairs) % 2 == 0, "syntax error")
        scored = []
        for text, member in zip(pairs[0::2], pairs[1::2], strict=True):
            try:
                score = float(text)
            except ValueError:
                raise RefusedError("value is not a valid float") from None
            _check(not math.isnan(score), "value is not a valid float")
            scored.append((member, score))
        value = self._value(key, ZsetValue, lambda: ZsetValue({}))
        value.scores |= dict(scored)
        return len(scored)

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        _check(len(pairs) >= 2 and len(pairs) % 2 == 0, "wrong number of arguments")
        value = self._value(key, HashValue, lambda: HashValue({}))
        for field, text in zip(pairs[0::2], pairs[1::2], strict=True):
            value.fields[field] = text
            value.expires.pop(field, None)
        return len(pairs) // 2

    def _hpexpireat(self, key: bytes, at: bytes, word: bytes, count: bytes, *fields: bytes) -> list[int]:
        _check(word.upper() == b"FIELDS" and int(count) == len(fields) > 0, "syntax error")
        _check(int(at) >= 0, "invalid expire time")
        return [self._expire_field(key, field, int(at)) for field in fields]

    def _expire_field(self, key: bytes, field: bytes, at: int) -> int:
        value = self._value(key, HashValue, lambda: HashValue({}))
        if field not in value.fields:
            return -2
        value.expires[field] = at
        if at <= self.now_ms:
            del value.fields[field], value.expires[field]
            if not value.fields:
                del self._keys[key]
            return 2
        return 1

    def _hsetex(self, key: bytes, option: bytes, at: bytes, word: bytes, count: bytes, *pairs: bytes) -> int:
        _check(option.upper() == b"PXAT" and word.upper() == b"FIELDS", "syntax error")
        _check(len(pairs) == 2 * int(count) > 0, "wrong number of arguments")
        _check(int(at) > 0, "invalid expire time")
        self._hset(key, *pairs)
        for field in pairs[0::2]:
            self._expire_field(key, field, int(at))
        return 1

    def _armset(self, key: bytes, *pairs: bytes) -> int:
        _check(len(pairs) >= 2 and len(pairs) % 2 == 0, "wrong number of arguments")
        value = self._value(key, ArrayValue, lambda: ArrayValue({}, None))
        value.slots |= {int(index): text for index, text in zip(pairs[0::2], pairs[1::2], strict=True)}
        return len(pairs) // 2

    def _arseek(self, key: bytes, index: bytes) -> int:
        value = self._value(key, ArrayValue, lambda: ArrayValue({}, None))
        value.insert = int(index) - 1
        return 1

    def _eval(self, script: bytes, count: bytes, key: bytes, *arguments: bytes) -> int:
        """The two scripts that put what follows a long member or field behind it, and the one that asks for a message."""
        _check(count == b"1", "one key is expected")
        if script.startswith(b"if #redis.call('XCLAIM', KEYS[1], unpack(ARGV)) == 0 then"):
            self._xclaim(key, *arguments)
            return 0
        if script == ZADD_SCRIPT:
            member, score = arguments
            return self._zadd(key, score, member)
        assert script.startswith(b"redis.call('HSET',KEYS[1],ARGV[1],ARGV[2])"), script
        field, value, at = arguments
        self._hset(key, field, value)
        if at != b"-1":
            _check("hpexpireat" in self.spec.commands, "unknown command hpexpireat")
            _check(int(at) >= 0, "invalid expire time")
            self._expire_field(key, field, int(at))
        return 1

    def _function(self, verb: bytes, replace: bytes, code: bytes) -> bytes:
        _check((verb.upper(), replace.upper()) == (b"LOAD", b"REPLACE"), "syntax error")
        first = code.split(b"\n", 1)[0]
        _check(first.startswith(b"#!") and b"name=" in first, "Missing library metadata")
        self.functions[first.split(b"name=", 1)[1].split(b" ", 1)[0]] = code
        return b"OK"

    def _script(self, verb: bytes, body: bytes) -> bytes:
        _check(verb == b"LOAD", "syntax error")
        digest = hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()
        self.scripts[digest] = body
        return digest

    # --------------------------------------------------------------- streams

    def _xadd(self, key: bytes, *arguments: bytes) -> bytes:
        words = list(arguments)
        most = None
        if words[0].upper() == b"MAXLEN":
            most = int(words[1])
            words = words[2:]
        entry_id, fields = stream_id(words[0]), words[1:]
        _check(len(fields) >= 2 and len(fields) % 2 == 0, "wrong number of arguments for 'xadd' command")
        stream = self._value(key, StreamValue, _empty_stream)
        _check(entry_id > (0, 0), "The ID specified in XADD must be greater than 0-0")
        _check(
            entry_id > stream.last_id, "The ID specified in XADD is equal or smaller than the target stream top item"
        )
        stream.entries.append((entry_id, list(zip(fields[0::2], fields[1::2], strict=True))))
        stream.last_id = entry_id
        stream.entries_added = (stream.entries_added or 0) + 1
        if most is not None:
            stream.entries = stream.entries[len(stream.entries) - most :]
        stream.length = len(stream.entries)
        return words[0]

    def _xsetid(self, key: bytes, last: bytes, *options: bytes) -> bytes:
        _check(key in self._keys, "no such key")
        stream = self._value(key, StreamValue, _empty_stream)
        said = {word.upper(): value for word, value in zip(options[0::2], options[1::2], strict=True)}
        _check(not said or self.spec.since(redis=(7, 0)), "syntax error")
        last_id, deleted = stream_id(last), stream_id(said.get(b"MAXDELETEDID", b"0-0"))
        added = int(said.get(b"ENTRIESADDED", b"-1"))
        _check(added == -1 or 0 <= added < 1 << 63, "entries_added must be positive")
        _check(last_id >= deleted, "The ID specified in XSETID is smaller than the provided max_deleted_entry_id")
        top = stream.entries[-1][0] if stream.entries else (0, 0)
        _check(last_id >= top, "The ID specified in XSETID is smaller than the target stream top item")
        _check(
            added == -1 or added >= stream.length, "The entries_added specified in XSETID is smaller than the length"
        )
        stream.last_id = last_id
        stream.entries_added = added if added >= 0 else stream.entries_added
        if deleted > (0, 0):
            stream.max_deleted_id = deleted
        return b"OK"

    def _stream_of(self, key: bytes) -> StreamValue:
        _check(key in self._keys, "The XGROUP subcommand requires the key to exist")
        return self._value(key, StreamValue, _empty_stream)

    def _xgroup(self, verb: bytes, key: bytes, name: bytes, *arguments: bytes) -> object:
        stream = self._stream_of(key)
        if verb.upper() == b"CREATE":
            _check(name not in stream.groups, "BUSYGROUP Consumer Group name already exists")
            read = -1
            if len(arguments) > 1:
                _check(self.spec.since(redis=(7, 0)) and arguments[1].upper() == b"ENTRIESREAD", "syntax error")
                read = int(arguments[2])
                _check(-1 <= read < 1 << 63, "value for ENTRIESREAD must be positive or -1")
            stream.groups[name] = Group(stream_id(arguments[0]), read)
            return b"OK"
        _check(verb.upper() == b"CREATECONSUMER" and self.spec.since(redis=(6, 2)), "unknown subcommand")
        _check(name in stream.groups, "NOGROUP")
        stream.groups[name].consumers.setdefault(arguments[0], Consumer(self.now_ms, -1))
        return 1

    def _xclaim(self, key: bytes, name: bytes, consumer: bytes, idle: bytes, *arguments: bytes) -> list[bytes]:
        stream = self._stream_of(key)
        _check(name in stream.groups, "NOGROUP")
        words = list(arguments)
        ids = []
        while words and b"-" in words[0]:
            ids.append(stream_id(words.pop(0)))
        said: dict[bytes, int] = {}
        while words:
            word = words.pop(0).upper()
            if word in (b"TIME", b"RETRYCOUNT"):
                said[word] = int(words.pop(0))
                _check(said[word] < 1 << 63, "value is not an integer or out of range")
            else:
                _check(word in (b"FORCE", b"JUSTID"), "syntax error")
                said[word] = 1
        _check(int(idle) == 0 and bool(ids) and b"FORCE" in said, "syntax error")
        group = stream.groups[name]
        there = {entry_id for entry_id, _ in stream.entries}
        for entry_id in ids:
            if entry_id in there:  # an entry that is gone cannot become pending
                group.consumers.setdefault(consumer, Consumer(self.now_ms, -1))
                time_ms = said.get(b"TIME", self.now_ms)
                time_ms = self.now_ms if not 0 <= time_ms <= self.now_ms else time_ms
                group.pending[entry_id] = Pending(consumer, time_ms, said.get(b"RETRYCOUNT", 1))
        return []


def _empty_stream() -> StreamValue:
    return StreamValue([], 0, (0, 0), entries_added=0, max_deleted_id=(0, 0))
