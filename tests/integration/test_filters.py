"""Rules in a snapshot: what is taken and where it goes, against a plain copy that is filtered and renamed afterwards."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from portd.kernel.crc64 import crc64
from portd.kernel.slots import key_slot
from tests.commands import run
from tests.compare import assert_equal
from tests.datasets import fill_big_hash, fill_every_encoding, fill_mixed
from tests.process import Portd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

DATABASES: Final = (0, 1, 3)
Place = Callable[[int, bytes, str], tuple[int, bytes] | None]  # where a key belongs, by database, name and type


def snapshot(source: Server, target: Server, **options: object) -> str:
    """One snapshot under rules; the log."""
    with Portd(source, target, stop_after="snapshot", log_format="logfmt", **options) as sync:
        assert sync.wait() == os.EX_OK, sync.log()
        return sync.log()


def fill(source: Server) -> None:
    """Keys of all types in several databases, small and large, with and without expiry."""
    fill_mixed(source, 600)
    fill_every_encoding(source)
    fill_big_hash(source, b"user:big", 40_000)
    for db in DATABASES:
        client = source.client(db=db)
        client.mset({f"user:{number}": "x" * number for number in range(60)})
        client.mset({f"old:{number}": str(number) for number in range(40)})
        client.set("user:soon", "1", ex=3000)
        client.set(b"\xff\x00binary", "1")
        client.hset("old:hash", mapping={str(number): "v" for number in range(900)})
        client.rpush("old:list", *range(3000))
        client.sadd("{tag}:set", *range(200))


def rearrange(server: Server, place: Place) -> None:
    """The obvious way: every key of a whole copy is removed or brought to where it belongs, one by one."""
    moves: list[tuple[int, bytes, int, bytes]] = []
    for db in range(16):
        client = server.client(db=db)
        for key in list(client.scan_iter(count=1000)):
            if key.startswith(b"portd:"):
                continue
            kind = client.type(key)
            where = place(db, key, kind.decode() if isinstance(kind, bytes) else kind)
            if where is None:
                client.delete(key)
            elif where != (db, key):
                client.rename(key, b"\x01moving\x01" + key)
                moves.append((db, key, *where))
    for number, (db, key, to_db, _) in enumerate(moves):
        client = server.client(db=db)
        client.rename(b"\x01moving\x01" + key, b"\x01placed\x01%d" % number)
        if db != to_db:
            client.move(b"\x01placed\x01%d" % number, to_db)
    for number, (_, _, to_db, to_key) in enumerate(moves):
        server.client(db=to_db).rename(b"\x01placed\x01%d" % number, to_key)


def is_small(db: int, key: bytes, kind: str) -> bool:
    """Slot of the first third."""
    return key_slot(key) <= 5460


ROWS: Final[dict[str, tuple[dict[str, object], Place]]] = {
    "prefix": ({"include": "user:"}, lambda db, key, kind: (db, key) if key.startswith(b"user:") else None),
    "several": (
        {"include": ["user:", "{tag}*"], "exclude": ["user:[12]*", "user:big"]},
        lambda db, key, kind: (db, key)
        if (key.startswith(b"user:") and key[5:6] not in {b"1", b"2"} and not key.startswith(b"user:big"))
        or key.startswith(b"{tag}")
        else None,
    ),
    "glob": (
        {"exclude": "*:?"},
        lambda db, key, kind: None if fnmatch.fnmatchcase(key.decode("latin-1"), "*:?") else (db, key),
    ),
    "regex": (
        {"include": r"re:^(user|old):\d+$"},
        lambda db, key, kind: (db, key)
        if key.partition(b":")[0] in {b"user", b"old"} and key.partition(b":")[2].isdigit()
        else None,
    ),
    "types": (
        {"include_type": ["hash", "zset"]},
        lambda db, key, kind: (db, key) if kind in {"hash", "zset"} else None,
    ),
    "not these types": ({"exclude_type": "string,list"}, lambda db, key, kind: None if kind in {"string", "list"} else (db, key)),
    "databases": ({"include_db": "0,3", "exclude_db": 3}, lambda db, key, kind: (db, key) if db == 0 else None),
    "slots": ({"include_slots": "0-5460"}, lambda db, key, kind: (db, key) if is_small(db, key, kind) else None),
    "databases mapped": (
        {"map_db": ["0=3", "3=0"]},
        lambda db, key, kind: ({0: 3, 3: 0}.get(db, db), key),
    ),
    "renamed": (
        {"rename_prefix": ["old:=new:", "user:1=u/"], "exclude_db": 3},
        lambda db, key, kind: None
        if db == 3
        else (db, b"new:" + key[4:])
        if key.startswith(b"old:")
        else (db, b"u/" + key[6:])
        if key.startswith(b"user:1")
        else (db, key),
    ),
    "everything under a prefix": (
        {"add_prefix": "eu:", "rename_prefix": "old:=o/", "map_db": "1=11,11=1"},
        lambda db, key, kind: ({1: 11, 11: 1}.get(db, db), b"eu:" + (b"o/" + key[4:] if key.startswith(b"old:") else key)),
    ),
    "all at once": (
        {"include": "old:", "include_db": 1, "all_dbs_to": 5, "add_prefix": "x:", "exclude_type": "list"},
        lambda db, key, kind: (5, b"x:" + key) if db == 1 and key.startswith(b"old:") and kind != "list" else None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.sampled(4)
def test_a_snapshot_under_rules_is_a_whole_one_rearranged(row: str, servers: ServerFactory) -> None:
    """Values, types, expiries and functions: DEBUG DIGEST agrees with a copy that was filtered key by key."""
    options, place = ROWS[row]
    source, plain, target = servers(), servers(), servers()
    fill(source)
    snapshot(source, plain)
    snapshot(source, target, **options)
    rearrange(plain, place)
    assert_equal(plain, target)


def test_a_dump_under_rules_is_a_snapshot(servers: ServerFactory, tmp_path: Path) -> None:
    """The file has the keys that are taken and no other, all of their bytes and a checksum of its own: a server loads it."""
    source, plain = servers(), servers()
    fill(source)
    snapshot(source, plain)
    taken = lambda db, key, kind: (db, key) if db != 3 and key.startswith((b"u", b"o")) and kind != "list" else None  # noqa: E731
    rearrange(plain, taken)
    flags = ["--include", "u", "--include", "o", "--exclude-db", "3", "--exclude-type", "list"]
    path = tmp_path / "dump.rdb"
    run("dump", "--source", source.url, "--output", path, *flags)
    data = path.read_bytes()
    assert int.from_bytes(data[-8:], "little") == crc64(data[:-8])
    loaded = servers()
    shutil.copy(path, loaded.directory / "dump.rdb")
    loaded.restart(crash=True)
    assert_equal(plain, loaded)
    whole = tmp_path / "whole.rdb"
    run("dump", "--source", source.url, "--output", whole)
    filtered = run("decode", whole, *flags, "--format", "keys").out.splitlines()
    assert sorted(filtered) == sorted(run("decode", path, "--format", "keys").out.splitlines())
    target = servers()
    run("restore", whole, "--target", target.url, *flags)
    assert_equal(plain, target)


def test_what_cannot_be_kept_is_refused() -> None:
    """Rules that a stream cannot follow, and a recording beside a part of a snapshot, end with 78 and the way out."""
    ends = ("--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2")
    ended = run("sync", *ends, "--max-bytes", "100", "--min-ttl", "5", expect=os.EX_CONFIG)
    assert "max_bytes, min_ttl cannot be kept in a stream" in ended.err
    ended = run("dump", "--source", ends[1], "--output", "x", "--follow", "--include", "a", expect=os.EX_CONFIG)
    assert "give the rules to restore" in ended.err
