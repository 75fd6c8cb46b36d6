"""Writes RDB snapshots of every version and type, those included that no server at hand writes.

The forms are the ones of rdb.c:rdbSaveObject of each release; ``Style`` chooses between equivalent ones.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, TypeVar, cast

from tests.oracle import model, pack
from tests.oracle.pack import Style
from tests.oracle.primitives import crc64, plain_float
from tests.oracle.values import MODULE_ALPHABET, STREAM_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
Cells = list[bytes | int]

ALL_BITS = (1 << 64) - 1
NODE_ELEMENTS = 50


def score_text(score: float) -> bytes:
    """A score the way servers print it."""
    if math.isinf(score):
        return b"inf" if score > 0 else b"-inf"
    if score.is_integer() and abs(score) < 1 << 52 and math.copysign(1, score) > 0:
        return b"%d" % score
    return b"%.17g" % score


def _split(things: list[T], style: Style, canonical: int) -> Iterator[list[T]]:
    """Consecutive groups, of random sizes unless canonical."""
    at = 0
    while at < len(things):
        size = canonical if not style.one_in(2) else style.number(1, canonical)
        yield things[at : at + size]
        at += size


class ValueWriter:
    """Writes the value of one key behind its type byte.

    Args:
        style: chooses between equivalent forms.
        templates: hash templates that types 30 and 32 may refer to, by number; fields in the order of the hash.
        lzf: force or forbid LZF for strings and blobs; None leaves it to the style.
    """

    def __init__(
        self, style: Style, *, templates: dict[int, list[bytes]] | None = None, lzf: bool | None = None
    ) -> None:
        self._style = style
        self._templates = templates or {}
        self._lzf = lzf

    def write(self, kind: int, value: model.Value, *, valkey: bool) -> bytes:  # noqa: PLR0911 - one for each type
        """The bytes of a value as type *kind*."""
        if kind == 0:
            return self._string(cast("bytes", value))
        if isinstance(value, model.ListValue):
            return self._list(kind, value.elements)
        if isinstance(value, model.SetValue):
            return self._set(kind, self._style.shuffled(sorted(value.members)))
        if isinstance(value, model.ZsetValue):
            return self._zset(kind, value.scores)
        if isinstance(value, model.HashValue):
            return self._hash(kind, value, valkey=valkey)
        if isinstance(value, model.StreamValue):
            return StreamWriter(self._style, STREAM_VERSIONS[kind], lzf=self._lzf).write(value)
        if isinstance(value, model.ArrayValue):
            return self._array(value)
        if isinstance(value, model.ModuleValue):
            return self._style.length(module_number(value)) + self.items(value.items)
        assert isinstance(value, model.NumberValue)
        return self._style.length(value.number)

    def _string(self, value: bytes) -> bytes:
        return self._style.string(value, lzf=self._lzf)

    def _blob(self, blob: bytes) -> bytes:
        return self._style.string(blob, lzf=self._lzf)

    def _many(self, strings: list[bytes], each: int = 1) -> bytes:
        return self._style.length(len(strings) // each) + b"".join(map(self._string, strings))

    def _list(self, kind: int, elements: list[bytes]) -> bytes:
        style = self._style
        if kind == 1:
            return self._many(elements)
        if kind == 10:
            return self._blob(pack.ziplist(elements, style))
        nodes = []
        for part in _split(elements, style, NODE_ELEMENTS):
            if kind == 14:
                nodes.append(self._blob(pack.ziplist(part, style)))
            elif len(part) == 1 and part[0]:
                nodes.append(style.length(1) + self._string(part[0]))
            else:
                nodes.append(style.length(2) + self._blob(pack.listpack(list(part), style)))
            if kind == 18 and style.one_in(10):
                nodes.append(style.length(2) + self._blob(pack.listpack([], style)))
        return style.length(len(nodes)) + b"".join(nodes)

    def _set(self, kind: int, members: list[bytes]) -> bytes:
        if kind == 2:
            return self._many(members)
        if kind == 11:
            return self._blob(pack.intset(members, self._style))
        return self._blob(pack.listpack(list(members), self._style))

    def _zset(self, kind: int, scores: dict[bytes, float]) -> bytes:
        if kind == 5:
            pairs = [self._string(member) + struct.pack("<d", score) for member, score in scores.items()]
            return self._style.length(len(pairs)) + b"".join(pairs)
        if kind == 3:
            pairs = [self._string(member) + self._score_3(score) for member, score in scores.items()]
            return self._style.length(len(pairs)) + b"".join(pairs)
        cells = [cell for member, score in scores.items() for cell in (member, score_text(score))]
        return self._blob(pack.ziplist(cells, self._style) if kind == 12 else pack.listpack(list(cells), self._style))

    def _score_3(self, score: float) -> bytes:
        if math.isnan(score):
            return b"\xfd"
        if math.isinf(score):
            return b"\xfe" if score > 0 else b"\xff"
        text = b"%.17g" % score
        return bytes([len(text)]) + text

    def _hash(self, kind: int, value: model.HashValue, *, valkey: bool) -> bytes:
        cells = [cell for pair in value.fields.items() for cell in pair]
        if kind == 4:
            return self._many(cells, 2)
        if kind == 9:
            return self._blob(pack.zipmap(cells, self._style))
        if kind == 13:
            return self._blob(pack.ziplist(cells, self._style))
        if kind == 16:
            return self._blob(pack.listpack(list(cells), self._style))
        if kind >= 29:
            return self._template_hash(kind, value.fields)
        return self._valkey_hash(value) if valkey else self._redis_hash(kind, value)

    def _valkey_hash(self, value: model.HashValue) -> bytes:
        out = self._style.length(len(value.fields))
        for name, text in value.fields.items():
            out += self._string(name) + self._string(text) + struct.pack("<q", value.expires.get(name, -1))
        return out

    def _redis_hash(self, kind: int, value: model.HashValue) -> bytes:
        style = self._style
        minimum = min(value.expires.values(), default=0)
        minimum = max(0, minimum - style.number(0, 1000)) if not style.one_in(5) else 0
        head = struct.pack("<q", minimum) if kind >= 24 else b""
        if kind in (23, 25):
            cells: Cells = []
            for name, text in value.fields.items():
                cells += [name, text, value.expires.get(name, 0)]
            return head + self._blob(pack.listpack(cells, style))
        out = head + style.length(len(value.fields))
        for name, text in value.fields.items():
            at = value.expires.get(name)
            ttl = 0 if at is None else at if kind == 22 else at - minimum + 1
            out += style.length(ttl) + self._string(name) + self._string(text)
        return out

    def _template_hash(self, kind: int, fields: dict[bytes, bytes]) -> bytes:
        style = self._style
        values = list(fields.values())
        number = next((n for n, names in self._templates.items() if names == list(fields)), None)
        if kind in (30, 32):
            assert number is not None, "no template has these fields"
        if kind == 30:
            return self._blob(pack.listpack([cast("int", number), *values], style))
        plain = b"".join(map(self._string, values))
        if kind == 32:
            return style.length(cast("int", number)) + plain
        names = list(fields)
        if style.one_in(2):
            head = style.length(1) + self._many(names)
        else:
            head = style.length(0) + self._blob(pack.listpack(list(names), style))
        return head + (self._blob(pack.listpack(list(values), style)) if kind == 29 else plain)

    def _array(self, value: model.ArrayValue) -> bytes:
        style = self._style
        out = style.length(len(value.slots)) + style.length(value.insert is not None)
        out += b"" if value.insert is None else style.length(value.insert)
        for index, text in sorted(value.slots.items()):
            out += style.length(index) + self._slot(text)
        return out

    def _slot(self, text: bytes) -> bytes:
        number = pack.canonical_integer(text, 64)
        if number is not None:
            return self._style.length(1) + struct.pack("<q", number)
        try:
            double = float(text)
        except ValueError:
            double = math.nan
        if math.isfinite(double) and plain_float(double) == text:
            return self._style.length(2) + struct.pack("<d", double)
        return self._style.length(3 if len(text) <= 7 else 0) + self._string(text)

    def items(self, items: list[tuple[str, int | float | bytes]]) -> bytes:
        """Module items and the closing 0."""
        style = self._style
        out = b""
        for kind, value in items:
            if kind in ("uint", "sint", "when"):
                out += style.length(2 if kind != "sint" else 1) + style.length(cast("int", value))
            elif kind == "float":
                out += style.length(3) + struct.pack("<I", value)
            elif kind == "double":
                out += style.length(4) + struct.pack("<Q", value)
            else:
                out += style.length(5) + self._string(cast("bytes", value))
        return out + style.length(0)


def module_number(value: model.ModuleValue) -> int:
    """The 64-bit id of a module type."""
    number = 0
    for letter in value.name:
        number = number << 6 | MODULE_ALPHABET.index(letter)
    return number << 10 | value.version


class StreamWriter:
    """Writes streams of one version, 1 to 5."""

    def __init__(self, style: Style, version: int, *, lzf: bool | None = None) -> None:
        self._style = style
        self._version = version
        self._lzf = lzf

    def write(self, stream: model.StreamValue) -> bytes:
        """Nodes, counters, groups, producers."""
        style = self._style
        nodes = [self._node(part) for part in _split(stream.entries, style, NODE_ELEMENTS)]
        out = style.length(len(nodes)) + b"".join(nodes)
        out += style.length(stream.length) + self._id(stream.last_id)
        if self._version >= 2:
            out += self._id(stream.first_id or (0, 0)) + self._id(stream.max_deleted_id or (0, 0))
            out += style.length(stream.entries_added or 0)
        out += style.length(len(stream.groups))
        for name in stream.groups:
            out += style.string(name) + self._group(stream, name)
        if self._version >= 4:
            out += self._producers(stream)
        return out

    def _id(self, entry_id: model.StreamId) -> bytes:
        return self._style.length(entry_id[0]) + self._style.length(entry_id[1])

    def _node(self, entries: list[tuple[model.StreamId, list[tuple[bytes, bytes]]]]) -> bytes:
        """Master id, and a listpack in which some entries are tombstones that nobody will see."""
        style = self._style
        items = [(entry_id, fields, False) for entry_id, fields in entries]
        if style.one_in(2):  # of a deleted entry only its place is left of interest
            items.insert(style.number(0, len(items)), (items[0][0], [(b"gone", b"%d" % style.number(0, 999))], True))
        master, names = items[0][0], [name for name, _ in items[0][1]]
        deleted = sum(gone for *_, gone in items)
        cells: Cells = [len(items) - deleted, deleted, len(names), *names, 0]
        for entry_id, fields, gone in items:
            same = [name for name, _ in fields] == names and not style.one_in(5)
            cells += [gone | same << 1, _wrapped(entry_id[0] - master[0]), _wrapped(entry_id[1] - master[1])]
            if same:
                cells += [value for _, value in fields]
            else:
                cells += [len(fields), *[cell for pair in fields for cell in pair]]
            cells.append(len(fields) + 3 if same else 2 * len(fields) + 4)
        raw = master[0].to_bytes(8, "big") + master[1].to_bytes(8, "big")
        return style.string(raw, lzf=False) + style.string(pack.listpack(cells, style), lzf=self._lzf)

    def _group(self, stream: model.StreamValue, name: bytes) -> bytes:
        style, group = self._style, stream.groups[name]
        out = self._id(group.last_id)
        if self._version >= 2:
            out += style.length((-1 if group.entries_read is None else group.entries_read) & ALL_BITS)
        out += style.length(len(group.pending))
        for entry_id, pending in sorted(group.pending.items()):
            out += _raw_id(entry_id) + struct.pack("<q", pending.delivered_ms) + style.length(pending.deliveries)
        out += style.length(len(group.consumers))
        for consumer, times in group.consumers.items():
            out += style.string(consumer) + struct.pack("<q", times.seen_ms)
            if self._version >= 3:
                out += struct.pack("<q", -1 if times.active_ms is None else times.active_ms)
            owned = [entry_id for entry_id, pending in sorted(group.pending.items()) if pending.consumer == consumer]
            out += style.length(len(owned)) + b"".join(map(_raw_id, owned))
        if self._version >= 5:
            free = [entry_id for entry_id, pending in sorted(group.pending.items()) if pending.consumer is None]
            out += style.length(len(free)) + b"".join(map(_raw_id, free))
        return out

    def _producers(self, stream: model.StreamValue) -> bytes:
        style = self._style
        out = b"".join(map(style.length, (*(stream.dedup or (0, 0)), len(stream.producers))))
        for name, producer in stream.producers.items():
            out += style.string(name) + style.length(len(producer.messages))
            for message, entry_id in producer.messages.items():
                out += style.string(message) + self._id(entry_id)
        return out + b"".join(map(style.length, stream.dedup_totals or (0, 0)))


def _raw_id(entry_id: model.StreamId) -> bytes:
    return entry_id[0].to_bytes(8, "big") + entry_id[1].to_bytes(8, "big")


def _wrapped(delta: int) -> int:
    """A difference of unsigned 64-bit numbers as the signed number that a listpack holds."""
    delta &= ALL_BITS
    return delta - (1 << 64) if delta >> 63 else delta


def encode_entry(entry: model.Entry, *, valkey: bool, style: Style, writer: ValueWriter | None = None) -> bytes:
    """Attributes, key and value of one key."""
    writer = writer or ValueWriter(style)
    attributes: list[bytes] = []
    if entry.expire_ms is not None:
        seconds, rest = divmod(entry.expire_ms, 1000)
        if rest == 0 and abs(seconds) < 1 << 31 and style.one_in(3):
            attributes.append(b"\xfd" + struct.pack("<i", seconds))
        else:
            attributes.append(b"\xfc" + struct.pack("<q", entry.expire_ms))
    if entry.idle is not None:
        attributes.append(b"\xf8" + style.length(entry.idle))
    if entry.freq is not None:
        attributes.append(b"\xf9" + bytes([entry.freq]))
    ordered: list[bytes] = style.shuffled(attributes)
    out = b"".join(ordered)
    if entry.meta:
        out += b"\xf3" + style.length(len(entry.meta))
        for number, items in entry.meta:
            out += struct.pack("<I", number) + writer.items(items)
    return out + bytes([entry.type]) + style.string(entry.key) + writer.write(entry.type, entry.value, valkey=valkey)


def encode(
    snapshot: model.Snapshot,
    style: Style | None = None,
    *,
    lzf: bool | None = None,
    crc: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A whole snapshot.

    Args:
        snapshot: what to say; entries are written in order, with SELECTDB where the database changes.
        style: chooses between equivalent forms.
        lzf: force or forbid LZF for values.
        crc: the checksum to write, the right one when None.
        extra: ready records to put before the end mark.
    """
    style = style or Style()
    writer = ValueWriter(style, templates=snapshot.templates, lzf=lzf)
    out = bytearray(b"VALKEY%03d" % snapshot.version if snapshot.valkey else b"REDIS%04d" % snapshot.version)
    for name, value in snapshot.aux:
        out += b"\xfa" + style.string(name) + style.string(value)
    for code in snapshot.functions:
        out += b"\xf5" + style.string(code, lzf=lzf)
    for module in snapshot.module_aux:
        when, *items = module.items
        out += (
            b"\xf7"
            + b"".join(map(style.length, (module_number(module), 2, cast("int", when[1]))))
            + writer.items(items)
        )
    for job, ranges in snapshot.slot_imports:
        out += b"\xf3" + style.string(job) + style.length(len(ranges))
        out += b"".join(style.length(number) for pair in ranges for number in pair)
    for number, names in snapshot.templates.items():
        out += b"\xf2" + style.length(number) + style.length(len(names)) + b"".join(map(style.string, names))
    db = -1
    for entry in snapshot.entries:
        if entry.db != db:
            db = entry.db
            out += b"\xfe" + style.length(db)
            if snapshot.version >= 7:
                out += b"\xfb" + style.length(len(snapshot.entries)) + style.length(0)
        if style.one_in(20):
            out += b"\xf4" + style.length(style.number(0, 16383)) + style.length(1) + style.length(0)
        out += encode_entry(entry, valkey=snapshot.valkey, style=style, writer=writer)
    out += extra + b"\xff"
    if snapshot.version >= 5:
        out += struct.pack("<Q", crc64(bytes(out)) if crc is None else crc)
    return bytes(out)
