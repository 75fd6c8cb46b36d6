"""Data for real servers: every encoding, mixed sets by the hundred thousand, keys of millions of elements.

Everything is reproducible by seed. Live writes are in ``tests.traffic``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.encodings import Sampler, a_little_of_everything, every_encoding, functions, load_special_lists
from tests.traffic import LiveTraffic as LiveTraffic  # noqa: PLC0414 - one module to import from
from tests.wire import Command, Wire, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Server

DATABASES = 16
GROUP = 512  # elements per command of the big fills
POOL_BYTES = 1 << 20  # random bytes that values are cut from
TTL_MS = 1000 * 3600 * 24


def fill_every_encoding(server: Server, seed: int = 0, *, big_bytes: int = 200_000) -> int:
    """Makes an empty server hold every encoding it has: all of it in databases 0 and 9, a little in the others.

    Args:
        server: a running server of any version.
        seed: same seed, same data (but for the clock).
        big_bytes: about the size of the biggest values.

    Returns:
        Commands executed.
    """
    now_ms = time.time_ns() // 1_000_000
    done = 0
    for db in range(DATABASES):
        with Wire(server, db) as wire:
            if db in (0, 9):
                done += wire.load_commands(every_encoding(server.binary, seed + db, now_ms, big_bytes))
                done += load_special_lists(wire, server.binary, Sampler(seed + db))
            else:
                done += wire.load_commands(a_little_of_everything(server.binary, seed + db, now_ms))
            if db == 0 and server.binary.at_least(redis=(7, 0), valkey=(0,)):
                done += wire.load_commands(functions(seed))
            elif db == 0:
                wire.call("SCRIPT", "LOAD", "return 'scripts travel in AUX fields up to 6.2'")
    return done


def fill_expiring(server: Server, keys: int, within_ms: int, seed: int = 0) -> int:
    """Keys of every type in database 0 that expire at different times from now to *within_ms* later."""
    sampler = Sampler(seed)
    now_ms = time.time_ns() // 1_000_000

    def commands() -> Iterator[Command]:
        for number in range(keys):
            key = f"soon:{number}"
            kinds: tuple[Command, ...] = (
                ("SET", key, sampler.element()),
                ("RPUSH", key, *sampler.distinct(3)),
                ("SADD", key, *sampler.distinct(3)),
                ("ZADD", key, 1, b"a", 2, b"b"),
                ("HSET", key, *sampler.distinct(4)),
                ("XADD", key, "1-1", b"f", b"v"),
            )
            yield kinds[number % 6]
            yield ("PEXPIREAT", key, now_ms + 1 + within_ms * number // keys)

    with Wire(server) as wire:
        return wire.load_commands(commands())


class _Pool:
    """Cheap pseudo-random bytes: slices of one random block, chosen by a multiplicative generator."""

    def __init__(self, seed: int) -> None:
        sampler = Sampler(seed)
        self._block = sampler.binary(POOL_BYTES // 2).hex().encode()
        self._words = sampler.text(POOL_BYTES)
        self._state = seed * 2 + 1

    def number(self, below: int) -> int:
        """A number from 0 to *below* - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self._state >> 24) % below

    def hexadecimal(self, size: int) -> bytes:
        """Text of hex digits: LZF gains little."""
        if size > POOL_BYTES // 2:
            return (self._block * (size // POOL_BYTES + 1))[:size]
        start = self.number(POOL_BYTES - size)
        return self._block[start : start + size]

    def words(self, size: int) -> bytes:
        """Text with repetitions: LZF halves it."""
        start = self.number(POOL_BYTES - size)
        return self._words[start : start + size]


def fill_mixed(server: Server, keys: int, seed: int = 0, *, databases: int = 4) -> int:
    """A mixed dataset of *keys* keys of all types, mostly small ones, a fifth with a TTL of a day or more.

    About 55 % strings, 15 % hashes, 10 % lists, 10 % sets, 8 % sorted sets, 2 % streams; database 0 holds 70 %.

    Returns:
        Keys written, equal to the sum of DBSIZE when the server was empty.
    """
    pool = _Pool(seed)
    now_ms = time.time_ns() // 1_000_000
    share = keys * 3 // 10 // max(databases - 1, 1) if databases > 1 else 0
    first = keys - share * (databases - 1)
    done = 0
    for db in range(databases):
        count = first if db == 0 else share
        with Wire(server, db) as wire:
            wire.load(_mixed_key(pool, db, number, now_ms) for number in range(count))
        done += count
    return done


def _mixed_key(pool: _Pool, db: int, number: int, now_ms: int) -> tuple[bytes, int]:
    """RESP that makes one key, and the commands in it."""
    die = pool.number(100)
    make = next(make for limit, make in _MIX if die < limit)
    key = b"mixed:%d:%d" % (db, number)
    payload = make(pool, key)
    if pool.number(5):
        return payload, 1
    at = b"%d" % (now_ms + TTL_MS + pool.number(TTL_MS))
    expire = b"*3\r\n$9\r\nPEXPIREAT\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(at), at)
    return payload + expire, 2


def _mixed_string(pool: _Pool, key: bytes) -> bytes:
    kind = pool.number(10)
    if kind < 3:
        value = b"%d" % (pool.number(1 << 36) - (1 << 35))
    elif kind < 9:
        value = pool.hexadecimal(8 + pool.number(56))
    else:
        value = pool.words(100 + pool.number(4000))
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


def _size(pool: _Pool) -> int:
    """Elements of a mixed key: mostly a few, sometimes hundreds."""
    return pool.number(12) + 1 if pool.number(25) else 150 + pool.number(400)


def _mixed_hash(pool: _Pool, key: bytes) -> bytes:
    parts = [b"HSET", key]
    for field in range(_size(pool)):
        parts += (b"field:%d" % field, pool.hexadecimal(4 + pool.number(30)))
    return pack(*parts)


def _mixed_list(pool: _Pool, key: bytes) -> bytes:
    return pack(b"RPUSH", key, *[pool.hexadecimal(pool.number(40)) for _ in range(_size(pool))])


def _mixed_set(pool: _Pool, key: bytes) -> bytes:
    if pool.number(2):
        return pack(b"SADD", key, *[pool.number(1 << 30) for _ in range(_size(pool))])
    return pack(b"SADD", key, *[pool.hexadecimal(12) for _ in range(_size(pool))])


def _mixed_zset(pool: _Pool, key: bytes) -> bytes:
    parts: list[bytes] = [b"ZADD", key]
    for member in range(_size(pool)):
        parts += (b"%d.%d" % (pool.number(10_000), pool.number(1000)), b"member:%d" % member)
    return pack(*parts)


def _mixed_stream(pool: _Pool, key: bytes) -> bytes:
    return pack(b"XADD", key, b"%d-%d" % (pool.number(1 << 41) + 1, pool.number(9)), b"field", pool.hexadecimal(20))


_MIX: tuple[tuple[int, Callable[[_Pool, bytes], bytes]], ...] = (
    (55, _mixed_string),
    (70, _mixed_hash),
    (80, _mixed_list),
    (90, _mixed_set),
    (98, _mixed_zset),
    (100, _mixed_stream),
)


def fill_strings(server: Server, count: int, value_bytes: int = 32, seed: int = 0, *, db: int = 0) -> int:
    """*count* string keys ``key:0000000000`` with values of hex digits, by MSET."""
    pool = _Pool(seed)
    head = b"$14\r\nkey:%010d\r\n$" + b"%d\r\n" % value_bytes
    with Wire(server, db) as wire:
        wire.load(
            _group(b"MSET", None, [head % n + pool.hexadecimal(value_bytes) for n in numbers], 2)
            for numbers in _groups(count, max(1, min(GROUP, (1 << 20) // (value_bytes + 30))))
        )
    return count


def _groups(count: int, size: int = GROUP) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _group(command: bytes, key: bytes | None, elements: list[bytes], arguments_each: int) -> tuple[bytes, int]:
    """One command of many elements, each already in RESP but for the last line end."""
    count = 1 + (key is not None) + len(elements) * arguments_each
    head = b"*%d\r\n$%d\r\n%b\r\n" % (count, len(command), command)
    if key is not None:
        head += b"$%d\r\n%b\r\n" % (len(key), key)
    return head + b"\r\n".join(elements) + b"\r\n", 1


def fill_big_hash(server: Server, key: bytes, members: int, value_bytes: int = 32, seed: int = 0) -> None:
    """One hash of *members* fields ``f0000000000``."""
    pool = _Pool(seed)
    head = b"$11\r\nf%010d\r\n$" + b"%d\r\n" % value_bytes
    element = lambda n: head % n + pool.hexadecimal(value_bytes)  # noqa: E731 - one expression
    _fill_big(server, b"HSET", key, element, count=members, element_bytes=value_bytes, arguments_each=2)


def fill_big_zset(server: Server, key: bytes, members: int, member_bytes: int = 32, seed: int = 0) -> None:
    """One sorted set; members begin with a unique number, scores have fractions."""
    pool = _Pool(seed)
    rest = max(member_bytes - 11, 0)
    head = b"$%%d\r\n%%b\r\n$%d\r\n%%010d:%%b" % (11 + rest)

    def element(n: int) -> bytes:
        score = b"%d.%d" % (pool.number(1 << 30), pool.number(1000))
        return head % (len(score), score, n, pool.hexadecimal(rest))

    _fill_big(server, b"ZADD", key, element, count=members, element_bytes=member_bytes, arguments_each=2)


def fill_big_set(server: Server, key: bytes, members: int, member_bytes: int = 32, seed: int = 0) -> None:
    """One set; members begin with a unique number."""
    pool = _Pool(seed)
    rest = max(member_bytes - 11, 0)
    head = b"$%d\r\n%%010d:" % (11 + rest)
    element = lambda n: head % n + pool.hexadecimal(rest)  # noqa: E731 - one expression
    _fill_big(server, b"SADD", key, element, count=members, element_bytes=member_bytes)


def fill_big_list(server: Server, key: bytes, elements: int, value_bytes: int = 32, seed: int = 0) -> None:
    """One list."""
    pool = _Pool(seed)
    head = b"$%d\r\n" % value_bytes
    element = lambda _: head + pool.hexadecimal(value_bytes)  # noqa: E731 - one expression
    _fill_big(server, b"RPUSH", key, element, count=elements, element_bytes=value_bytes)


def _fill_big(
    server: Server,
    command: bytes,
    key: bytes,
    element: Callable[[int], bytes],
    *,
    count: int,
    element_bytes: int,
    arguments_each: int = 1,
) -> None:
    per_command = max(1, min(GROUP, (1 << 20) // (element_bytes + 30)))
    with Wire(server) as wire:
        wire.load(
            _group(command, key, [element(n) for n in numbers], arguments_each)
            for numbers in _groups(count, per_command)
        )


def fill_big_stream(
    server: Server, key: bytes, entries: int, value_bytes: int = 32, seed: int = 0, *, pending: int = 0
) -> None:
    """One stream with ids ``1000000-0`` and on, and a group that has read *pending* entries without an ack."""
    pool = _Pool(seed)
    body = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n" % (len(key), key)
    tail = b"$1\r\nf\r\n$%d\r\n" % value_bytes

    def entry(number: int) -> tuple[bytes, int]:
        name = b"%d-%d" % (1_000_000 + number // 3, number % 3)
        identifier = b"$%d\r\n%b\r\n" % (len(name), name)
        return body + identifier + tail + pool.hexadecimal(value_bytes) + b"\r\n", 1

    with Wire(server) as wire:
        wire.load(entry(number) for number in range(entries))
        if pending:
            wire.call("XGROUP", "CREATE", key, "g", "0")
            for start in range(0, pending, 1000):
                count = min(1000, pending - start)
                wire.call("XREADGROUP", "GROUP", "g", f"c{start % 7000}", "COUNT", count, "STREAMS", key, ">")


def fill_big_string(server: Server, key: bytes, size: int, seed: int = 0, *, packable: bool = False) -> None:
    """One string of *size* bytes, by SETRANGE in pieces; with *packable* LZF will compress it in the RDB."""
    pool = _Pool(seed)
    step = POOL_BYTES // 2
    with Wire(server) as wire:
        for start in range(0, size, step):
            part = min(step, size - start)
            wire.call("SETRANGE", key, start, pool.words(part) if packable else pool.hexadecimal(part))
