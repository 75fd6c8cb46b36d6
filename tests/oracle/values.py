"""Decodes one RDB value of any type (rdb.c:rdbLoadObject of Redis and Valkey), in plain and slow Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tests.oracle.blobs import intset, listpack, texts, ziplist, zipmap
from tests.oracle.model import (
    ArrayValue,
    Consumer,
    Group,
    HashValue,
    ListValue,
    ModuleValue,
    NumberValue,
    OracleError,
    Pending,
    Producer,
    SetValue,
    StreamId,
    StreamValue,
    Value,
    ZsetValue,
)
from tests.oracle.primitives import plain_float

if TYPE_CHECKING:
    from tests.oracle.primitives import Cursor

STREAM_VERSIONS = {15: 1, 19: 2, 21: 3, 26: 4, 27: 5}
MODULE_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
Items = list[tuple[str, int | float | bytes]]


class EmptyValueError(Exception):
    """The value has no elements: servers skip such keys when they load a file."""


def read_value(cursor: Cursor, kind: int, *, valkey: bool, templates: dict[int, list[bytes]]) -> Value:
    """One value.

    Args:
        cursor: stands behind the key.
        kind: the type byte.
        valkey: the numbers from 22 on mean what Valkey says.
        templates: hash templates seen so far.

    Raises:
        OracleError: unknown type or corrupt bytes.
        EmptyValueError: well-formed, but without elements; the cursor stands behind it.
    """
    if kind in (29, 30, 31, 32) and not valkey:
        return _template_hash(cursor, kind, templates)
    reader = _COMMON.get(kind) or (_VALKEY if valkey else _REDIS).get(kind)
    if reader is None:
        raise cursor.fail(f"type {kind} is not known to {'Valkey' if valkey else 'Redis'}")
    return reader(cursor, kind)


def _not_empty(count: int) -> None:
    if count == 0:
        raise EmptyValueError


def _list(cursor: Cursor, kind: int) -> ListValue:
    elements: list[bytes] = []
    if kind == 10:
        elements = ziplist(cursor.string())
    elif kind == 1:
        elements = [cursor.string() for _ in range(cursor.length())]
    else:
        for _ in range(cursor.length()):
            container = cursor.length() if kind == 18 else 0
            node = cursor.string()
            if kind == 14:
                elements += ziplist(node)
            elif container == 1:
                if not node:
                    raise cursor.fail("empty plain node")
                elements.append(node)
            elif container == 2:
                elements += texts(listpack(node))
            else:
                raise cursor.fail(f"unknown node container {container}")
    _not_empty(len(elements))
    return ListValue(elements)


def _set(cursor: Cursor, kind: int) -> SetValue:
    if kind == 2:
        members = [cursor.string() for _ in range(cursor.length())]
    else:
        blob = cursor.string()
        members = intset(blob) if kind == 11 else texts(listpack(blob))
    _not_empty(len(members))
    return SetValue(set(members), len(members) - len(set(members)))


def _score_text(cursor: Cursor) -> float:
    size = cursor.byte()
    special = {253: math.nan, 254: math.inf, 255: -math.inf}.get(size)
    return special if special is not None else _float(cursor, cursor.take(size))


def _float(cursor: Cursor, text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise cursor.fail(f"{text!r} is not a score") from None


def _zset(cursor: Cursor, kind: int) -> ZsetValue:
    if kind in (3, 5):
        pairs = [
            (cursor.string(), _score_text(cursor) if kind == 3 else cursor.double()) for _ in range(cursor.length())
        ]
    else:
        blob = cursor.string()
        cells = ziplist(blob) if kind == 12 else texts(listpack(blob))
        pairs = [(member, _float(cursor, score)) for member, score in _in_groups(cells, 2)]
    _not_empty(len(pairs))
    scores = dict(pairs)
    return ZsetValue(scores, len(pairs) - len(scores))


def _in_groups(cells: list[bytes], size: int) -> Iterable[tuple[bytes, ...]]:
    if len(cells) % size:
        raise OracleError(f"{len(cells)} cells do not make groups of {size}")
    return zip(*[iter(cells)] * size, strict=True)


def _hash(cursor: Cursor, kind: int) -> HashValue:
    if kind == 4:
        cells = [cursor.string() for _ in range(2 * cursor.length())]
    else:
        blob = cursor.string()
        cells = zipmap(blob) if kind == 9 else ziplist(blob) if kind == 13 else texts(listpack(blob))
    return _hash_of([(name, value, None) for name, value in _in_groups(cells, 2)])


def _hash_of(fields: list[tuple[bytes, bytes, int | None]]) -> HashValue:
    _not_empty(len(fields))
    found = HashValue({})
    for name, value, expire_ms in fields:
        found.duplicates += name in found.fields
        found.fields[name] = value
        found.expires.pop(name, None)
        if expire_ms is not None:
            found.expires[name] = expire_ms
    return found


def _valkey_hash(cursor: Cursor, _: int) -> HashValue:
    fields = []
    for _ in range(cursor.length()):
        name, value, expire_ms = cursor.string(), cursor.string(), cursor.unpack("<q")
        fields.append((name, value, expire_ms if expire_ms >= 0 else None))
    return _hash_of(fields)


def _redis_hash(cursor: Cursor, kind: int) -> HashValue:
    """Types 22 and 23 of a 7.4 release candidate, 24 and 25 of the release."""
    minimum = cursor.unpack("<q") if kind >= 24 else 0
    fields: list[tuple[bytes, bytes, int | None]] = []
    if kind in (22, 24):
        for _ in range(cursor.length()):
            ttl, name, value = cursor.length(), cursor.string(), cursor.string()
            fields.append((name, value, (ttl if kind == 22 else minimum + ttl - 1) if ttl else None))
    else:
        for name, value, at in _in_groups(texts(listpack(cursor.string())), 3):
            fields.append((name, value, int(at) or None))
    return _hash_of(fields)


def _template_hash(cursor: Cursor, kind: int, templates: dict[int, list[bytes]]) -> HashValue:
    if kind in (29, 31):
        if cursor.length() == 0:
            names = texts(listpack(cursor.string()))
        else:
            names = [cursor.string() for _ in range(cursor.length())]
    if kind in (29, 30):
        values = listpack(cursor.string())
        if kind == 30:
            names = _template(cursor, templates, values.pop(0) if values else None)
        plain = texts(values)
    else:
        if kind == 32:
            names = _template(cursor, templates, cursor.length())
        plain = [cursor.string() for _ in names]
    if len(plain) != len(names):
        raise cursor.fail(f"{len(plain)} values for {len(names)} fields of a template")
    return _hash_of([(name, value, None) for name, value in zip(names, plain, strict=True)])


def _template(cursor: Cursor, templates: dict[int, list[bytes]], number: bytes | int | None) -> list[bytes]:
    if not isinstance(number, int) or number not in templates:
        raise cursor.fail(f"template {number!r} is not known")
    return templates[number]


def _array(cursor: Cursor, _: int) -> ArrayValue:
    count, flag = cursor.length(), cursor.length()
    insert = cursor.length() if flag == 1 else None
    slots: dict[int, bytes] = {}
    for _ in range(count):
        index, tag = cursor.length(), cursor.length()
        if tag == 1:
            slots[index] = b"%d" % cursor.unpack("<q")
        elif tag == 2:
            slots[index] = plain_float(cursor.double())
        elif tag in (0, 3):
            slots[index] = cursor.string()
        else:
            raise cursor.fail(f"unknown array tag {tag}")
    _not_empty(count)
    return ArrayValue(slots, insert)


def module_name(number: int) -> str:
    """Nine characters of six bits, highest first (module.c:moduleTypeNameByID)."""
    return "".join(MODULE_ALPHABET[number >> (10 + 6 * (8 - place)) & 63] for place in range(9))


def read_module_items(cursor: Cursor) -> Items:
    """Items up to the closing 0 (rdb.c:rdbLoadCheckModuleValue)."""
    items: Items = []
    while tag := cursor.length():
        if tag in (1, 2):
            items.append(("sint" if tag == 1 else "uint", cursor.length()))
        elif tag == 3:
            items.append(("float", cursor.unpack("<I")))
        elif tag == 4:
            items.append(("double", cursor.unpack("<Q")))
        elif tag == 5:
            items.append(("string", cursor.string()))
        else:
            raise cursor.fail(f"unknown module tag {tag}")
    return items


def read_module(cursor: Cursor, _: int = 7) -> ModuleValue:
    """A module value: id and items."""
    number = cursor.length()
    return ModuleValue(module_name(number), number & 1023, read_module_items(cursor))


def _stream(cursor: Cursor, kind: int) -> StreamValue:
    version = STREAM_VERSIONS[kind]
    entries: list[tuple[StreamId, list[tuple[bytes, bytes]]]] = []
    for _ in range(cursor.length()):
        master = cursor.string()
        if len(master) != 16:
            raise cursor.fail("master id of a stream node is not 16 bytes")
        entries += _stream_node(
            (int.from_bytes(master[:8], "big"), int.from_bytes(master[8:], "big")), listpack(cursor.string())
        )
    length, ms, seq = cursor.numbers(3)
    stream = StreamValue(entries, length, (ms, seq))
    if version >= 2:
        first_ms, first_seq, deleted_ms, deleted_seq, added = cursor.numbers(5)
        stream.first_id, stream.max_deleted_id = (first_ms, first_seq), (deleted_ms, deleted_seq)
        stream.entries_added = added
    for _ in range(cursor.length()):
        name = cursor.string()
        stream.groups[name] = _group(cursor, version)
    if version >= 4:
        duration, most, producers = cursor.numbers(3)
        stream.dedup = (duration, most)
        for _ in range(producers):
            producer = cursor.string()
            messages = {}
            for _ in range(cursor.length()):
                message = cursor.string()
                messages[message] = (cursor.length(), cursor.length())
            stream.producers[producer] = Producer(messages)
        stream.dedup_totals = (cursor.length(), cursor.length())
    return stream


def _stream_node(master: StreamId, cells: list[bytes | int]) -> list[tuple[StreamId, list[tuple[bytes, bytes]]]]:
    """Living entries of one node (t_stream.c:streamAppendItem has the layout)."""
    walk = iter(cells)

    def number() -> int:
        cell = next(walk)
        if not isinstance(cell, int):
            raise OracleError("text where a stream node has a number")
        return cell

    def text() -> bytes:
        return texts([next(walk)])[0]

    try:
        count, deleted, names = number(), number(), [text() for _ in range(number())]
        if number() != 0:
            raise OracleError("master entry does not end in 0")
        found = []
        for _ in range(count + deleted):
            flags, ms, seq = number(), number(), number()
            if flags & 2:
                fields = [(name, text()) for name in names]
            else:
                pairs = number()
                fields = [(text(), text()) for _ in range(pairs)]
            number()  # cells of this entry, for walking backwards
            if not flags & 1:
                found.append((((master[0] + ms) & ((1 << 64) - 1), (master[1] + seq) & ((1 << 64) - 1)), fields))
    except StopIteration:
        raise OracleError("stream node is cut") from None
    if next(walk, None) is not None:
        raise OracleError("stream node holds more than it says")
    return found


def _group(cursor: Cursor, version: int) -> Group:
    group = Group((cursor.length(), cursor.length()), cursor.signed() if version >= 2 else None)
    for _ in range(cursor.length()):
        entry_id = cursor.stream_id()
        group.pending[entry_id] = Pending(None, cursor.unpack("<q"), cursor.length())
    for _ in range(cursor.length()):
        name = cursor.string()
        group.consumers[name] = Consumer(cursor.unpack("<q"), cursor.unpack("<q") if version >= 3 else None)
        for _ in range(cursor.length()):
            entry_id = cursor.stream_id()
            if entry_id not in group.pending:
                raise cursor.fail("a consumer owns an entry that its group does not know")
            group.pending[entry_id].consumer = name
    if version >= 5:
        for _ in range(cursor.length()):
            entry_id = cursor.stream_id()
            if entry_id not in group.pending:
                raise cursor.fail("an entry was negatively acknowledged that the group does not know")
    return group


_Reader = Callable[["Cursor", int], Value]
_COMMON: dict[int, _Reader] = {
    0: lambda cursor, _: cursor.string(),
    **dict.fromkeys((1, 10, 14, 18), _list),
    **dict.fromkeys((2, 11, 20), _set),
    **dict.fromkeys((3, 5, 12, 17), _zset),
    **dict.fromkeys((4, 9, 13, 16), _hash),
    **dict.fromkeys((15, 19, 21), _stream),
    7: read_module,
}
_VALKEY: dict[int, _Reader] = {22: _valkey_hash}
_REDIS: dict[int, _Reader] = {
    **dict.fromkeys((22, 23, 24, 25), _redis_hash),
    **dict.fromkeys((26, 27), _stream),
    28: _array,
    33: lambda cursor, _: NumberValue(cursor.length()),
}
