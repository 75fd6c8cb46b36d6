"""Commands that make a real server hold every encoding it has.

What a command turns into inside of the server depends on its limits (``hash-max-listpack-entries`` and the like, called
ziplist before 7.0); the sizes here stand on both sides of the defaults.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Binary
    from tests.wire import Command, Wire

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS

INTEGERS = [0, 1, -1, 12, 13, 63, 64, 127, 128, -128, -129, 255, 256, 4095, 4096, -4096, -4097]
INTEGERS += [sign * (1 << bits) + delta for bits in (15, 23, 31, 63) for sign in (1, -1) for delta in (-1, 0, 1)]
LOOK_LIKE_INTEGERS = [b"007", b"+1", b"-0", b" 1", b"1 ", b"1.0", b"0x10", b"9" * 40, b"-", b"1e5"]
SCORES = [
    "0", "-0", "1", "-1", "0.1", "-0.5", "3.3333333333333335", "1e20", "-1e20", "1e-10", "inf", "-inf", "5e-324",
    "1.7976931348623157e308", "-1.7976931348623157e308", "2.2250738585072014e-308", "9007199254740993",
    "123456789012345678", "1e15", "1e16", "1e17", "1e21", "4294967296", "-9223372036854775808", "0.30000000000000004",
]  # fmt: skip
STREAM_TOP = (1 << 64) - 1


class Sampler:
    """Random bytes of chosen kinds, reproducible by seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def binary(self, size: int) -> bytes:
        """Bytes that LZF cannot pack."""
        return self.random.randbytes(size)

    def text(self, size: int) -> bytes:
        """Bytes that LZF packs well, without one long run."""
        words = [self.random.randbytes(self.random.randint(3, 9)).hex().encode() for _ in range(12)]
        out = bytearray()
        while len(out) < size:
            out += self.random.choice(words) + b" "
        return bytes(out[:size])

    def element(self, longest: int = 40) -> bytes:
        """A small element: number, text or binary, sometimes empty."""
        kind = self.random.randrange(5)
        if kind == 0:
            return str(self.random.choice(INTEGERS)).encode()
        if kind == 1:
            return str(self.random.randint(-(10**6), 10**6)).encode()
        if kind == 2:
            return self.binary(self.random.randint(0, longest))
        return self.text(self.random.randint(1, longest))

    def distinct(self, count: int, longest: int = 40) -> list[bytes]:
        """Different elements."""
        found: dict[bytes, None] = {}
        while len(found) < count:
            element = self.element(longest)
            if element in found:
                element += b":%d" % len(found)
            found[element] = None
        return list(found)


def every_encoding(binary: Binary, seed: int, now_ms: int, big_bytes: int) -> Iterator[Command]:
    """Commands for one empty database.

    Args:
        binary: the server that will execute them.
        seed: same seed, same commands (but for *now_ms*).
        now_ms: unix time; expiries are hours to years later.
        big_bytes: about the size of the biggest values.
    """
    sampler = Sampler(seed)
    yield from strings(sampler, big_bytes)
    yield from keys(sampler)
    yield from lists(sampler, big_bytes)
    yield from sets(sampler, big_bytes)
    yield from sorted_sets(sampler, big_bytes)
    yield from hashes(sampler, big_bytes)
    if binary.at_least(redis=(8, 0), valkey=(9, 0)):
        yield from hash_field_expiry(sampler, now_ms, big_bytes)
    yield from streams(binary, sampler, now_ms, big_bytes)
    yield from expiries(now_ms)


def a_little_of_everything(binary: Binary, seed: int, now_ms: int) -> Iterator[Command]:
    """One small value of each type, for the databases that need not hold all of it."""
    sampler = Sampler(seed)
    yield ("SET", "little:string", sampler.text(30))
    yield ("SET", "little:expiring", sampler.binary(10), "PX", now_ms % HOUR_MS + HOUR_MS)
    yield ("RPUSH", "little:list", *sampler.distinct(5))
    yield ("SADD", "little:set", *sampler.distinct(5))
    yield ("ZADD", "little:zset", 1.5, b"a", -2, b"b")
    yield ("HSET", "little:hash", *sampler.distinct(6))
    yield ("XADD", "little:stream", "5-1", b"f", sampler.element())


def strings(sampler: Sampler, big_bytes: int) -> Iterator[Command]:
    """Raw, integer and LZF strings around every length that changes their form; HyperLogLogs and bitmaps."""
    for number in INTEGERS:
        yield ("SET", f"string:int:{number}", str(number))
    for index, value in enumerate(LOOK_LIKE_INTEGERS):
        yield ("SET", f"string:almost-int:{index}", value)
    for size in (0, 1, 11, 12, 20, 21, 31, 32, 33, 63, 64, 65, 264, 265, 4096, 16383, 16384, 70_000, big_bytes):
        yield ("SET", f"string:text:{size}", sampler.text(size))
        yield ("SET", f"string:binary:{size}", sampler.binary(size))
        yield ("SET", f"string:run:{size}", b"a" * size)
        yield ("SET", f"string:cycle:{size}", (b"0123456789abcdef" * (size // 16 + 1))[:size])
    yield ("PFADD", "string:hll:sparse", *range(20))
    yield ("PFADD", "string:hll:dense", *range(5000))
    yield ("SETBIT", "string:bitmap", 100_000, 1)
    yield ("APPEND", "string:appended", b"ab")
    yield ("APPEND", "string:appended", b"cd")


def keys(sampler: Sampler) -> Iterator[Command]:
    """Keys that are empty, binary, numeric, long or packable."""
    yield ("SET", b"", b"value of the empty key")
    yield ("SET", bytes(range(256)), b"all bytes")
    yield ("SET", b"key with\r\n$5\r\nhello\r\n", b"\r\n")
    for number in (0, -1, 127, 128, 32768, -(1 << 31), 1 << 31, 10**12):
        yield ("SET", str(number), b"numeric key")
    for size in (63, 64, 255, 256, 16383, 16384, 70_000):
        yield ("SET", b"k" * size, b"long key")
        yield ("SADD", sampler.binary(size), b"long binary key")
    yield ("SET", "ключ-键-🔑", "значение")


def lists(sampler: Sampler, big_bytes: int) -> Iterator[Command]:
    """One node, many nodes, packed nodes, elements that get a node of their own."""
    yield ("RPUSH", "list:one", b"")
    yield ("RPUSH", "list:integers", *INTEGERS)
    yield ("RPUSH", "list:small", *sampler.distinct(20), *LOOK_LIKE_INTEGERS)
    for size in (63, 64, 127, 128, 4095, 4096, 8191, 8192, 20_000):
        yield ("RPUSH", f"list:element:{size}", b"first", sampler.text(size), sampler.binary(size), b"last")
    for part in range(4):
        yield ("RPUSH", "list:many", *sampler.distinct(500))
        yield ("LPUSH", "list:both-ends", *[b"%d" % (part * 1000 + n) for n in range(500)])
    yield ("RPUSH", "list:same", *([b"x" * 50] * 400))
    yield ("RPUSH", "list:big-elements", *[sampler.text(big_bytes // 4) for _ in range(6)], b"tail")


def compressed_lists(sampler: Sampler) -> Iterator[Command]:
    """Lists for a server that has ``list-compress-depth 1``: inner nodes are LZF in memory already."""
    for _ in range(4):
        yield ("RPUSH", "list:compressed", *[sampler.text(200) for _ in range(100)])


def plain_lists(sampler: Sampler) -> Iterator[Command]:
    """Lists for a server that stores elements from 100 bytes on in nodes of their own."""
    for _ in range(20):
        yield ("RPUSH", "list:plain", sampler.element(), sampler.text(150), sampler.binary(300), b"1", b"")


def sets(sampler: Sampler, big_bytes: int) -> Iterator[Command]:
    """Intsets of every width, listpacks, hash tables."""
    yield ("SADD", "set:int16", *range(-20, 20))
    yield ("SADD", "set:int32", *range(0, 70_000_000, 1_000_000))
    yield ("SADD", "set:int64", *[number for number in INTEGERS if -(1 << 63) <= number < (1 << 63)])
    yield ("SADD", "set:int-large", *range(0, 30_000, 7))
    yield ("SADD", "set:empty-member", b"")
    yield ("SADD", "set:small", *sampler.distinct(30), *LOOK_LIKE_INTEGERS)
    for _ in range(4):
        yield ("SADD", "set:large", *sampler.distinct(300))
    yield ("SADD", "set:long-members", *[sampler.binary(size) for size in (64, 65, 300, 5000, big_bytes // 2)])


def sorted_sets(sampler: Sampler, big_bytes: int) -> Iterator[Command]:
    """Small and large, with every kind of score."""
    pairs = [part for index, score in enumerate(SCORES) for part in (score, b"score:%d" % index)]
    yield ("ZADD", "zset:scores:small", *pairs)
    yield ("ZADD", "zset:scores:large", *pairs, 1, b"z" * 100)
    yield ("ZADD", "zset:one", 0, b"")
    yield ("ZADD", "zset:integers", *[part for n in INTEGERS for part in (n, str(n))])
    for part in range(4):
        members = [b"%d:%b" % (part, member) for member in sampler.distinct(200)]
        scored = [
            (sampler.random.choice((1, 0.001, 1e18)) * sampler.random.gauss(0, 1e3), member) for member in members
        ]
        yield ("ZADD", "zset:large", *[part for score, member in scored for part in (repr(score), member)])
    yield ("ZADD", "zset:long-members", 1, sampler.text(300), 2, sampler.binary(big_bytes // 2), 3, b"tail")
    yield ("GEOADD", "zset:geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")


def hashes(sampler: Sampler, big_bytes: int) -> Iterator[Command]:
    """Small and large, empty fields and values, long ones."""
    yield ("HSET", "hash:empty-field", b"", b"")
    yield ("HSET", "hash:small", *sampler.distinct(40))
    yield ("HSET", "hash:integers", *[part for n in INTEGERS for part in (f"f{n}", str(n))])
    for part in range(4):
        fields = [b"%d:%b" % (part, field) for field in sampler.distinct(300)]
        yield ("HSET", "hash:large", *[each for field in fields for each in (field, sampler.element())])
    yield ("HSET", "hash:long-values", *[each for n in range(5) for each in (f"f{n}", sampler.text(big_bytes // 4))])
    yield ("HSET", "hash:long-field", sampler.binary(big_bytes // 2), b"v", b"f", b"w")


def hash_field_expiry(sampler: Sampler, now_ms: int, big_bytes: int) -> Iterator[Command]:
    """Hashes with some, all and former field TTLs; no field expires soon."""
    later = now_ms + HOUR_MS
    yield ("HSET", "hash:field-ttl:some", *sampler.distinct(20), b"f", b"v", b"g", b"w", b"h", b"")
    yield ("HPEXPIREAT", "hash:field-ttl:some", later, "FIELDS", 1, b"f")
    yield ("HPEXPIREAT", "hash:field-ttl:some", later + YEAR_MS, "FIELDS", 1, b"g")
    yield ("HSET", "hash:field-ttl:all", b"a", b"1", b"b", b"2")
    yield ("HPEXPIREAT", "hash:field-ttl:all", later, "FIELDS", 2, b"a", b"b")
    yield ("PEXPIREAT", "hash:field-ttl:all", later + HOUR_MS)
    yield ("HSET", "hash:field-ttl:former", b"a", b"1", b"b", b"2")
    yield ("HPEXPIREAT", "hash:field-ttl:former", later, "FIELDS", 1, b"a")
    yield ("HPERSIST", "hash:field-ttl:former", "FIELDS", 1, b"a")
    fields = [b"field:%d" % number for number in range(1500)]
    yield ("HSET", "hash:field-ttl:large", *[part for field in fields for part in (field, sampler.element())])
    for start in range(0, 900, 300):
        some = fields[start : start + 300]
        yield ("HPEXPIREAT", "hash:field-ttl:large", later + start * 1000, "FIELDS", len(some), *some)
    for number in range(900, 1000):
        yield ("HPEXPIREAT", "hash:field-ttl:large", later + number, "FIELDS", 1, fields[number])
    long_value = sampler.text(big_bytes // 2)
    yield ("HSET", "hash:field-ttl:long", b"f", long_value, b"g", long_value, b"h", b"short")
    yield ("HPEXPIREAT", "hash:field-ttl:long", later, "FIELDS", 2, b"f", b"h")


def streams(binary: Binary, sampler: Sampler, now_ms: int, big_bytes: int) -> Iterator[Command]:
    """Every shape of nodes, ids, tombstones, groups, consumers and pending entries."""
    yield ("XADD", "stream:one", "1-0", b"", b"")
    yield ("XADD", "stream:top", f"{STREAM_TOP}-{STREAM_TOP}", b"f", b"v")
    for index in range(350):
        yield (
            "XADD",
            "stream:same-fields",
            f"{now_ms + index // 3}-{index % 3}",
            b"n",
            index,
            b"text",
            sampler.element(),
        )
    for index in range(250):  # sequence numbers fall when the milliseconds move on; 1 to 4 fields
        fields = [part for n in range(index % 4 + 1) for part in (b"f%d" % (n + index % 3), sampler.element())]
        yield ("XADD", "stream:mixed-fields", f"{1000 + index // 2}-{500 + index if index % 2 else 5}", *fields)
    yield ("XADD", "stream:large-delta", "1-18446744073709551614", b"f", b"v")
    yield ("XADD", "stream:large-delta", f"{1 << 62}-0", b"f", b"v")
    for index in range(150):
        yield ("XADD", "stream:tombstones", f"{index + 1}-1", b"f", index)
    yield ("XDEL", "stream:tombstones", *[f"{index + 1}-1" for index in range(0, 120, 3)], "1-1", "150-1")
    yield ("XADD", "stream:long-values", "1-1", b"f", sampler.text(big_bytes // 2), b"g", b"v")
    yield ("XADD", "stream:long-values", "2-1", sampler.binary(5000), sampler.binary(big_bytes // 2))
    for index in range(40):
        yield ("XADD", "stream:big", f"{index + 1}-1", b"f", sampler.text(big_bytes // 30), b"n", index)
    yield ("XADD", "stream:emptied", "7-7", b"f", b"v")
    yield ("XDEL", "stream:emptied", "7-7")
    yield ("XADD", "stream:trimmed", "1-1", b"f", b"v")
    yield ("XADD", "stream:trimmed", "MAXLEN", 1, "2-1", b"f", b"v")
    yield ("XADD", "stream:set-id", "1-1", b"f", b"v")
    yield ("XSETID", "stream:set-id", f"{now_ms}-9")
    yield from stream_groups(binary, now_ms)


def stream_groups(binary: Binary, now_ms: int) -> Iterator[Command]:
    """Groups and their consumers."""
    yield ("XGROUP", "CREATE", "stream:never-used", "g", "0", "MKSTREAM")
    yield ("XGROUP", "CREATE", "stream:never-used", b"\x00binary\r\ngroup", "5-5")
    key = "stream:groups"
    for index in range(200):
        yield ("XADD", key, f"{index + 1}-{index % 7}", b"f", index)
    for group, start in ((b"all", "0"), (b"tail", "$"), (b"middle", "100-1"), (b"idle", "0"), (b"", "0")):
        yield ("XGROUP", "CREATE", key, group, start)
    yield ("XREADGROUP", "GROUP", b"all", b"alice", "COUNT", 120, "STREAMS", key, ">")
    yield ("XREADGROUP", "GROUP", b"all", b"bob", "COUNT", 30, "STREAMS", key, ">")
    yield ("XREADGROUP", "GROUP", b"all", b"nobody", "STREAMS", key, "0")
    yield ("XREADGROUP", "GROUP", b"middle", b"", "COUNT", 5, "STREAMS", key, ">")
    yield ("XREADGROUP", "GROUP", b"middle", b"no-ack", "COUNT", 5, "NOACK", "STREAMS", key, ">")
    yield ("XACK", key, b"all", "1-0", "3-2", "121-1")
    claim = ("XCLAIM", key, b"all", b"carol", 0, "2-1", "TIME", now_ms - 12_345, "RETRYCOUNT", 1234, "FORCE", "JUSTID")
    yield claim
    yield ("XDEL", key, "5-4", "6-5", "130-3")  # pending entries whose data is gone
    if binary.at_least(redis=(6, 2), valkey=(0,)):
        yield ("XGROUP", "CREATECONSUMER", key, b"all", b"never read")
        yield ("XGROUP", "CREATECONSUMER", key, b"idle", b"never read either")
    if binary.at_least(redis=(7, 0), valkey=(0,)):
        yield ("XGROUP", "CREATE", key, b"counted", "50-0", "ENTRIESREAD", 50)
        yield ("XSETID", "stream:set-id", f"{now_ms + 1}-0", "ENTRIESADDED", 1000, "MAXDELETEDID", "5-5")
    yield ("XGROUP", "CREATE", "stream:emptied", "g", "0")
    yield ("XADD", "stream:pending-only", "1-1", b"f", b"v")
    yield ("XGROUP", "CREATE", "stream:pending-only", "g", "0")
    yield ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "stream:pending-only", ">")
    yield ("XDEL", "stream:pending-only", "1-1")


def expiries(now_ms: int) -> Iterator[Command]:
    """Expiries on every type, from an hour to the end of what servers accept."""
    for name, at in (("hour", now_ms + HOUR_MS + 7), ("year", now_ms + YEAR_MS), ("far", now_ms + 5000 * YEAR_MS)):
        yield ("SET", f"expiring:string:{name}", b"v")
        yield ("RPUSH", f"expiring:list:{name}", b"v", b"w")
        yield ("SADD", f"expiring:set:{name}", 1, 2, 3)
        yield ("ZADD", f"expiring:zset:{name}", 1, b"v")
        yield ("HSET", f"expiring:hash:{name}", b"f", b"v")
        yield ("XADD", f"expiring:stream:{name}", "1-1", b"f", b"v")
        yield ("HSET", f"expiring:hash-large:{name}", *[part for n in range(700) for part in (f"f{n}", n)])
        for kind in ("string", "list", "set", "zset", "hash", "stream", "hash-large"):
            yield ("PEXPIREAT", f"expiring:{kind}:{name}", at)


def functions(seed: int) -> Iterator[Command]:
    """Two function libraries, one short and one that LZF packs."""
    body = "redis.register_function('%s', function(keys, args) return '%s' end)"
    yield ("FUNCTION", "LOAD", "REPLACE", f"#!lua name=short{seed}\n" + body % (f"short{seed}", "x"))
    many = "\n".join(body % (f"many{seed}_{n}", "y" * n) for n in range(40))
    yield ("FUNCTION", "LOAD", "REPLACE", f"#!lua name=many{seed}\n{many}")


def load_special_lists(wire: Wire, binary: Binary, sampler: Sampler) -> int:
    """Lists whose nodes depend on settings: sets them, writes, and sets them back."""
    wire.call("CONFIG", "SET", "list-compress-depth", 1)
    done = wire.load_commands(compressed_lists(sampler))
    wire.call("CONFIG", "SET", "list-compress-depth", 0)
    if binary.at_least(redis=(7, 0), valkey=(0,)):
        wire.call("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "100b")
        done += wire.load_commands(plain_lists(sampler))
        wire.call("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "0")
    return done
