"""Reads whole values from a live server with ordinary commands, in pages, for comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.wire import Wire

ELEMENTS_AT_ONCE = 1000
BIG_STREAM = 20_000  # entries from which XINFO STREAM FULL is not asked for all of them


def read_functions(wire: Wire) -> dict[bytes, bytes]:
    """Code by library name."""
    libraries = [dict(zip(each[0::2], each[1::2], strict=True)) for each in wire.call("FUNCTION", "LIST", "WITHCODE")]
    return {library[b"library_name"]: library[b"library_code"] for library in libraries}


def read_string(wire: Wire, key: bytes) -> bytes:
    """A string, whole."""
    value: bytes = wire.call("GET", key)
    return value


def read_list(wire: Wire, key: bytes) -> list[bytes]:
    """All elements, in pages."""
    elements: list[bytes] = []
    while part := wire.call("LRANGE", key, len(elements), len(elements) + ELEMENTS_AT_ONCE - 1):
        elements += part
    return elements


def _scan(wire: Wire, command: str, key: bytes) -> Iterator[bytes]:
    cursor = b"0"
    while True:
        cursor, part = wire.call(command, key, cursor, "COUNT", ELEMENTS_AT_ONCE)
        yield from part
        if cursor == b"0":
            return


def read_set(wire: Wire, key: bytes) -> dict[bytes, None]:
    """All members, as the keys of a dict."""
    return dict.fromkeys(_scan(wire, "SSCAN", key))


def read_hash(wire: Wire, key: bytes) -> dict[bytes, bytes]:
    """Values by field."""
    return pairs(_scan(wire, "HSCAN", key))


def read_zset(wire: Wire, key: bytes) -> dict[bytes, float]:
    """Scores by member."""
    return {member: float(score) for member, score in pairs(_scan(wire, "ZSCAN", key)).items()}


def read_stream(wire: Wire, key: bytes) -> list[Any]:
    """All entries as XRANGE tells them, in pages."""
    entries: list[Any] = []
    start = "-"
    while part := wire.call("XRANGE", key, start, "+", "COUNT", ELEMENTS_AT_ONCE):
        entries += part
        milliseconds, sequence = map(int, part[-1][0].split(b"-"))
        if sequence == (1 << 64) - 1:
            milliseconds, sequence = milliseconds + 1, -1
        if milliseconds >> 64:
            break
        start = f"{milliseconds}-{sequence + 1}"
    return entries


def pairs(flat: Iterable[Any]) -> dict[Any, Any]:
    """A flat list of names and values as a dict."""
    walk = iter(flat)
    return dict(zip(walk, walk, strict=True))


READERS: dict[str, Callable[[Wire, bytes], Any]] = {
    "string": read_string,
    "list": read_list,
    "set": read_set,
    "zset": read_zset,
    "hash": read_hash,
    "stream": read_stream,
}


def read_field_expiries(wire: Wire, key: bytes) -> Iterator[tuple[bytes, int]]:
    """(field, unix ms) of each field that expires."""
    fields = list(read_hash(wire, key))
    for start in range(0, len(fields), ELEMENTS_AT_ONCE):
        part = fields[start : start + ELEMENTS_AT_ONCE]
        times = wire.call("HPEXPIRETIME", key, "FIELDS", len(part), *part)
        yield from ((name, at) for name, at in zip(part, times, strict=True) if at >= 0)


def read_stream_state(wire: Wire, key: bytes, *, times: bool) -> dict[tuple[Any, ...], Any]:
    """What a stream holds beside its entries, as (path) -> value; what a server does not know is left out."""
    big = wire.call("XLEN", key) > BIG_STREAM
    answer = pairs(wire.call("XINFO", "STREAM", key, "FULL", "COUNT", 1 if big else 0))
    wanted = (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added")
    state: dict[tuple[Any, ...], Any] = {("itself", name): answer[name] for name in wanted if name in answer}
    for flat in answer[b"groups"]:
        group = pairs(flat)
        path = ("group", group[b"name"])
        state[path] = "exists"
        for name in (b"last-delivered-id", b"entries-read", b"pel-count"):
            if name in group:
                state[*path, name] = group[name]
        pending = _pending(wire, key, group[b"name"]) if big else [tuple(each) for each in group[b"pending"]]
        state[*path, "pending"] = {each[0]: each[1:] for each in pending}
        for flat_consumer in group[b"consumers"]:
            consumer = pairs(flat_consumer)
            state[*path, "consumer", consumer[b"name"]] = consumer[b"pel-count"]
            for name in (b"seen-time", b"active-time") if times else ():
                if name in consumer:
                    state[*path, "consumer", consumer[b"name"], name] = consumer[name]
    return state


def read_old_stream_state(wire: Wire, key: bytes) -> dict[tuple[Any, ...], Any]:
    """The same as far as Redis 5.0 tells it; delivery times are not among it."""
    answer = pairs(wire.call("XINFO", "STREAM", key))
    state: dict[tuple[Any, ...], Any] = {("itself", name): answer[name] for name in (b"length", b"last-generated-id")}
    for flat in wire.call("XINFO", "GROUPS", key):
        group = pairs(flat)
        path = ("group", group[b"name"])
        state[path] = "exists"
        state[*path, b"last-delivered-id"] = group[b"last-delivered-id"]
        state[*path, "pending"] = {each[0]: each[1:] for each in _pending(wire, key, group[b"name"])}
        for consumer in map(pairs, wire.call("XINFO", "CONSUMERS", key, group[b"name"])):
            state[*path, "consumer", consumer[b"name"]] = consumer[b"pending"]
    return state


def _pending(wire: Wire, key: bytes, group: bytes) -> list[tuple[Any, ...]]:
    """(id, consumer, deliveries) of each pending entry, in pages."""
    found: list[tuple[Any, ...]] = []
    start = b"-"
    while part := wire.call("XPENDING", key, group, start, "+", ELEMENTS_AT_ONCE):
        found += [(each[0], each[1], each[3]) for each in part]
        if len(part) < ELEMENTS_AT_ONCE:
            break  # Redis 5.0 knows no open interval
        start = b"(" + part[-1][0] if part[-1][0] != b"18446744073709551615-18446744073709551615" else b"+"
    return found
