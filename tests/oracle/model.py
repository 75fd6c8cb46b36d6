"""What an RDB snapshot says, as plain Python values. Shared by the decoder, the writer and the model of a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union

StreamId = tuple[int, int]  # ms, seq

ABSENT = (1 << 64) - 1  # what -1 looks like in a length


class OracleError(Exception):
    """The bytes are not a valid snapshot; ``offset`` says where the decoder stood."""

    def __init__(self, message: str, offset: int = -1) -> None:
        super().__init__(f"{message} (offset {offset})")
        self.offset = offset


@dataclass(slots=True)
class ListValue:
    """Elements in order."""

    elements: list[bytes]


@dataclass(slots=True)
class SetValue:
    """Members; ``duplicates`` counts those that came more than once."""

    members: set[bytes]
    duplicates: int = 0


@dataclass(slots=True)
class ZsetValue:
    """Scores by member."""

    scores: dict[bytes, float]
    duplicates: int = 0


@dataclass(slots=True)
class HashValue:
    """Values by field, and the expiry (unix ms) of those fields that have one."""

    fields: dict[bytes, bytes]
    expires: dict[bytes, int] = field(default_factory=dict)
    duplicates: int = 0


@dataclass(slots=True)
class Pending:
    """An entry that was delivered and not acknowledged. Without a consumer it was negatively acknowledged."""

    consumer: bytes | None
    delivered_ms: int
    deliveries: int


@dataclass(slots=True)
class Consumer:
    """When a consumer was last seen and last got something; -1 never, None where the version does not say."""

    seen_ms: int
    active_ms: int | None


@dataclass(slots=True)
class Group:
    """A consumer group."""

    last_id: StreamId
    entries_read: int | None  # -1 unknown to the source, None where the version does not say
    pending: dict[StreamId, Pending] = field(default_factory=dict)
    consumers: dict[bytes, Consumer] = field(default_factory=dict)


@dataclass(slots=True)
class Producer:
    """Message ids of an idempotent producer, and the entries they became."""

    messages: dict[bytes, StreamId]


@dataclass(slots=True)
class StreamValue:
    """A stream; counters are None where the version does not say."""

    entries: list[tuple[StreamId, list[tuple[bytes, bytes]]]]
    length: int
    last_id: StreamId
    first_id: StreamId | None = None
    max_deleted_id: StreamId | None = None
    entries_added: int | None = None
    groups: dict[bytes, Group] = field(default_factory=dict)
    dedup: tuple[int, int] | None = None  # duration in seconds, max entries
    producers: dict[bytes, Producer] = field(default_factory=dict)
    dedup_totals: tuple[int, int] | None = None  # ids added, duplicates


@dataclass(slots=True)
class ArrayValue:
    """Values by index, as text; ``insert`` is the next index to insert at less one, None when it was never used."""

    slots: dict[int, bytes]
    insert: int | None


@dataclass(slots=True)
class ModuleValue:
    """A module's value as the items it is made of: ("uint", 1), ("string", b"x")."""

    name: str
    version: int
    items: list[tuple[str, int | float | bytes]]


@dataclass(slots=True)
class NumberValue:
    """A value that is one number (GCRA limiter)."""

    number: int


Value = Union[  # noqa: UP007 - a union of names that are defined above, readable as a list
    bytes,
    ListValue,
    SetValue,
    ZsetValue,
    HashValue,
    StreamValue,
    ArrayValue,
    ModuleValue,
    NumberValue,
]


@dataclass(slots=True)
class Entry:
    """One key.

    Attributes:
        type: the value's type byte.
        expire_ms: unix ms, None without an expiry.
        idle: seconds, None when not said.
        freq: 0 to 255, None when not said.
        meta: KEY_META records: (class, items).
        start: offset of the type byte.
        end: offset behind the value.
    """

    db: int
    key: bytes
    type: int
    value: Value
    expire_ms: int | None = None
    idle: int | None = None
    freq: int | None = None
    meta: list[tuple[int, list[tuple[str, int | float | bytes]]]] = field(default_factory=list)
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class Snapshot:
    """Everything a snapshot says.

    Attributes:
        valkey: the magic was VALKEY.
        version: the number behind the magic.
        entries: keys in order; keys without a single element are only in ``empty``.
        empty: (db, key) of keys that have no elements: servers skip them.
        crc: the stored checksum, None before version 5.
        size: bytes from the magic to the last byte of the checksum.
    """

    valkey: bool
    version: int
    entries: list[Entry] = field(default_factory=list)
    empty: list[tuple[int, bytes]] = field(default_factory=list)
    functions: list[bytes] = field(default_factory=list)
    aux: list[tuple[bytes, bytes]] = field(default_factory=list)
    module_aux: list[ModuleValue] = field(default_factory=list)
    slot_imports: list[tuple[bytes, list[tuple[int, int]]]] = field(default_factory=list)
    templates: dict[int, list[bytes]] = field(default_factory=dict)
    crc: int | None = None
    size: int = 0
