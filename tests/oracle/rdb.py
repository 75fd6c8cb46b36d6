"""Decodes RDB snapshots and DUMP payloads of every version, in plain and slow Python: what the kernel is held to.

Written from the format alone (rdb.c:rdbLoadRioWithLoadingCtx); it shares no code with the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.oracle.model import Entry, ModuleValue, OracleError, Snapshot, Value
from tests.oracle.primitives import Cursor, crc64
from tests.oracle.values import EmptyValueError, Items, module_name, read_module_items, read_value

REDIS_VERSIONS = range(1, 16)
VALKEY_VERSIONS = (80,)


@dataclass(slots=True)
class _Attributes:
    """What opcodes said about the next key."""

    expire_ms: int | None = None
    idle: int | None = None
    freq: int | None = None


def decode(data: bytes, *, verify: bool = True) -> Snapshot:
    """Decodes one snapshot from the first byte of *data*; bytes behind its end are not looked at.

    Raises:
        OracleError: not a snapshot, corrupt, cut, or of an unknown version or type.
    """
    cursor = Cursor(data)
    snapshot = _read_magic(cursor)
    attributes = _Attributes()
    meta: list[tuple[int, Items]] = []
    db = 0
    while (opcode := cursor.byte()) != 0xFF:
        if opcode == 0xFE:
            db = cursor.length()
        elif opcode == 0xFD:
            attributes.expire_ms = cursor.unpack("<i") * 1000
        elif opcode == 0xFC:
            attributes.expire_ms = cursor.unpack("<q")
        elif opcode == 0xF9:
            attributes.freq = cursor.byte()
        elif opcode == 0xF8:
            attributes.idle = cursor.length()
        elif opcode == 0xF3 and not snapshot.valkey:
            meta = read_key_meta(cursor)
        elif opcode >= 0xF2:
            _read_opcode(cursor, opcode, snapshot)
        else:
            _read_key(cursor, opcode, snapshot, Entry(db, b"", opcode, b"", meta=meta, start=cursor.at - 1), attributes)
            attributes, meta = _Attributes(), []
    if snapshot.version >= 5:
        body = data[: cursor.at]
        snapshot.crc = cursor.unpack("<Q")
        if verify and snapshot.crc and snapshot.crc != crc64(body):
            raise cursor.fail("checksum differs")
    snapshot.size = cursor.at
    return snapshot


def _read_magic(cursor: Cursor) -> Snapshot:
    magic = cursor.take(9)
    valkey = magic.startswith(b"VALKEY")
    digits = magic[6 if valkey else 5 :]
    if not (valkey or magic.startswith(b"REDIS")) or not digits.isdigit():
        raise cursor.fail("not an RDB snapshot")
    version = int(digits)
    if version not in (VALKEY_VERSIONS if valkey else REDIS_VERSIONS):
        raise cursor.fail(f"version {magic!r} is not known")
    return Snapshot(valkey, version)


def _read_key(cursor: Cursor, kind: int, snapshot: Snapshot, entry: Entry, attributes: _Attributes) -> None:
    entry.key = cursor.string()
    entry.expire_ms, entry.idle, entry.freq = attributes.expire_ms, attributes.idle, attributes.freq
    try:
        entry.value = read_value(cursor, kind, valkey=snapshot.valkey, templates=snapshot.templates)
    except EmptyValueError:
        snapshot.empty.append((entry.db, entry.key))
        return
    entry.end = cursor.at
    snapshot.entries.append(entry)


def _read_opcode(cursor: Cursor, opcode: int, snapshot: Snapshot) -> None:
    if opcode == 0xFB:
        cursor.numbers(2)
    elif opcode == 0xFA:
        snapshot.aux.append((cursor.string(), cursor.string()))
    elif opcode == 0xF7:
        number, tag, when = cursor.numbers(3)
        if tag != 2:
            raise cursor.fail("module aux without a number")
        items: Items = [("when", when), *read_module_items(cursor)]
        snapshot.module_aux.append(ModuleValue(module_name(number), number & 1023, items))
    elif opcode == 0xF5:
        snapshot.functions.append(cursor.string())
    elif opcode == 0xF4:
        cursor.numbers(3)
    elif opcode == 0xF3:
        job = cursor.string()
        snapshot.slot_imports.append((job, [(cursor.length(), cursor.length()) for _ in range(cursor.length())]))
    elif opcode == 0xF2 and not snapshot.valkey:
        number = cursor.length()
        snapshot.templates[number] = [cursor.string() for _ in range(cursor.length())]
    else:
        raise cursor.fail(f"opcode {opcode} is not known")


def read_key_meta(cursor: Cursor) -> list[tuple[int, Items]]:
    """KEY_META behind its opcode: (class, items) of each record; the next byte must be a type."""
    records = [(cursor.unpack("<I"), read_module_items(cursor)) for _ in range(cursor.length())]
    if cursor.at < len(cursor.data) and cursor.data[cursor.at] >= 0xF2:
        raise cursor.fail("key metadata is not followed by a key")
    return records


@dataclass(slots=True)
class Dump:
    """A DUMP payload.

    Attributes:
        type: type byte.
        value: what it stands for.
        footer: RDB version in the footer.
        meta: KEY_META records in front.
    """

    type: int
    value: Value
    footer: int
    meta: list[tuple[int, Items]]


def decode_dump(payload: bytes, *, valkey: bool) -> Dump:
    """Decodes the payload of DUMP and RESTORE and checks its footer and checksum.

    Raises:
        OracleError: corrupt, wrong checksum, bytes behind the value, or an empty value.
    """
    if len(payload) < 10:
        raise OracleError("payload without a footer", 0)
    if crc64(payload[:-8]) != int.from_bytes(payload[-8:], "little"):
        raise OracleError("checksum of the payload differs", len(payload) - 8)
    cursor = Cursor(payload[:-10])
    kind = cursor.byte()
    meta: list[tuple[int, Items]] = []
    if kind == 0xF3 and not valkey:
        meta = read_key_meta(cursor)
        kind = cursor.byte()
    try:
        value = read_value(cursor, kind, valkey=valkey, templates={})
    except EmptyValueError:
        raise cursor.fail("empty value in a payload") from None
    if cursor.at != len(cursor.data):
        raise cursor.fail("bytes behind the value of a payload")
    return Dump(kind, value, int.from_bytes(payload[-10:-8], "little"), meta)
