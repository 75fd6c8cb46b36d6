"""Digests of values, for telling whether two servers are equal."""

from typing import Final, final

from typing_extensions import Buffer

from portd.kernel.handler import Handler

@final
class DigestHandler(Handler):
    """Makes a record of fixed size of every key of a snapshot: give it to a ``SnapshotDecoder``.

    ``next_output`` of the decoder then returns ``(bucket, data)``: records of one bucket, or names where bucket is
    ``NAMES``. Names follow each other: database (u32), length (u32), name; a record holds the offset of its name.
    Keys and hash fields whose expiry has passed do not exist for it. Collections without elements neither.

    Args:
        bucket_bits: of the key's hash that choose the bucket; 0 keeps records in the order of the keys.
        bucket_records: records of a piece.
        ignored: keys of database 0 that begin with it are left out; empty leaves none out.
        stream_counters: entries added, highest deleted id and entries read by groups count; they exist since Redis 7.0.
        entries_read: of them, the entries read by groups.
        idle_consumers: consumers without pending entries count.
        seed: digests can only be compared under the same seed.
        names_base: offset of the first name: how many bytes of names others have handed out before.
    """

    def __init__(
        self,
        *,
        bucket_bits: int = ...,
        bucket_records: int = ...,
        ignored: bytes = ...,
        stream_counters: bool = ...,
        entries_read: bool = ...,
        idle_consumers: bool = ...,
        seed: bytes = ...,
        names_base: int = ...,
    ) -> None: ...

def compare(source: bytearray, target: bytearray, ttl_tolerance_ms: int = ...) -> tuple[int, bytes]:
    """Compares the records of one bucket of both ends; sorts both in place.

    Args:
        source: all records of the bucket.
        target: the same.
        ttl_tolerance_ms: expiry times of keys that differ by no more are equal.

    Returns:
        How many keys are equal, and one structure of five u64 for each that is not: what differs (the constants
        below, added up), offset of the name in the source's names and in the target's (all ones where it is not), and
        a number for the state of the key on either end, 0 where it is not.
    """

def digest_bytes(data: Buffer, seed: bytes = ..., cuts: list[int] = ...) -> tuple[int, int]:
    """The hash of some bytes, taken in pieces that end at *cuts*; for tests."""

NAMES: Final[int]
RECORD_BYTES: Final[int]
DIFFERENCE_BYTES: Final[int]
MISSING: Final[int]
EXTRA: Final[int]
TYPE: Final[int]
VALUE: Final[int]
TTL: Final[int]
FIELD_TTL: Final[int]
