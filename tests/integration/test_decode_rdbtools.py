"""`portd decode` against another program's reader: rdbtools, which knows files up to RDB version 9."""
# ruff: noqa: D102 - the methods are those that rdbtools calls

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from rdbtools import RdbCallback, RdbParser

from tests.commands import run
from tests.datasets import fill_every_encoding, fill_mixed
from tests.lines import read_lines, stream_id, text
from tests.servers import Binary, binaries

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory

OLD = [binary for binary in binaries() if binary.rdb_version <= 9]
Key = tuple[int, bytes]


def plain(value: Any) -> bytes:
    """As the bytes that they stand for: rdbtools tells integer encodings as integers."""
    return value if isinstance(value, bytes) else str(value).encode()


class Listener(RdbCallback):  # type: ignore[misc]
    """Notes everything in the form of `read_lines`, in plain bytes."""

    def __init__(self) -> None:
        super().__init__(string_escape=None)
        self.db = 0
        self.told: dict[Key, list[Any]] = defaultdict(list)
        self.expiries: dict[Key, int] = {}
        self.streams: dict[Key, tuple[int, str, dict[bytes, tuple[str, int, int]]]] = {}

    def _begin(self, key: bytes, expiry: datetime | None) -> None:
        self.told[self.db, plain(key)] = []
        if expiry is not None:
            milliseconds = (expiry.replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)).total_seconds() * 1000
            self.expiries[self.db, plain(key)] = round(milliseconds)

    def start_database(self, db_number: int) -> None:
        self.db = db_number

    def set(self, key: bytes, value: Any, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)
        self.told[self.db, plain(key)].append(plain(value))

    def start_hash(self, key: bytes, length: int, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)

    def hset(self, key: bytes, field: Any, value: Any) -> None:
        self.told[self.db, plain(key)].append((plain(field), plain(value), None))

    def start_set(self, key: bytes, cardinality: int, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)

    def sadd(self, key: bytes, member: Any) -> None:
        self.told[self.db, plain(key)].append(plain(member))

    def start_list(self, key: bytes, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)

    def rpush(self, key: bytes, value: Any) -> None:
        elements = self.told[self.db, plain(key)]
        elements.append((len(elements), plain(value)))

    def start_sorted_set(self, key: bytes, length: int, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)

    def zadd(self, key: bytes, score: Any, member: Any) -> None:
        self.told[self.db, plain(key)].append((plain(member), float(score) + 0.0))

    def start_stream(self, key: bytes, listpacks_count: int, expiry: datetime | None, info: Any) -> None:
        self._begin(key, expiry)

    def end_stream(self, key: bytes, items: int, last_entry_id: str, cgroups: list[dict[str, Any]]) -> None:
        groups = {
            plain(group["name"]): (group["last_entry_id"], len(group["pending"]), len(group["consumers"]))
            for group in cgroups
        }
        self.streams[self.db, plain(key)] = items, last_entry_id, groups


@pytest.mark.skipif(not OLD, reason="no server here writes RDB version 9 or older")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", OLD, ids=[binary.name for binary in OLD])
def test_another_reader_tells_the_same(old: Binary, servers: ServerFactory, tmp_path: Path) -> None:
    """Every element of every type and encoding, every expiry, and of streams lengths, ids, groups and consumers."""
    source = servers(old)
    fill_every_encoding(source, big_bytes=20_000)
    fill_mixed(source, 1000)
    file = tmp_path / "dump.rdb"
    run("dump", "--source", source.url, "--output", file)
    listener = Listener()
    RdbParser(listener).parse(str(file))
    told, others = read_lines(run("decode", file).out)

    assert told.keys() == listener.told.keys()
    for key, elements in listener.told.items():
        if key not in listener.streams:
            assert Counter(told[key]) == Counter(elements), key
    expiries = {
        (line["db"], text(line["key"])): line["expireat"]
        for line in read_keys(run("decode", file, "--format", "keys").out)
        if "expireat" in line
    }
    assert expiries == listener.expiries
    assert streams_of(told, others) == listener.streams
    assert len(listener.streams) > 3
    assert len(listener.told) > 1000


def read_keys(output: bytes) -> list[dict[str, Any]]:
    """The lines of `--format keys`."""
    return [json.loads(line) for line in output.splitlines()]


def streams_of(told: dict[Key, Any], others: list[dict[str, Any]]) -> dict[Key, Any]:
    """Length, last id and groups of streams as `portd decode` told them."""
    found: dict[Key, Any] = {}
    groups: dict[Key, dict[bytes, list[Any]]] = defaultdict(dict)
    for line in others:
        key = line["db"], text(line["key"])
        if line["record"] == "stream":
            found[key] = line["length"], line["lastid"]
            assert len(told[key]) == line["length"]
            assert all(stream_id(line["lastid"]) >= each[0] for each in told[key])
        elif line["record"] == "group":
            groups[key][text(line["group"])] = [line["lastid"], 0, 0]
        elif line["record"] == "pending":
            groups[key][text(line["group"])][1] += 1
        elif line["record"] == "consumer":
            groups[key][text(line["group"])][2] += 1
    return {key: (*found[key], {name: tuple(each) for name, each in groups[key].items()}) for key in found}
