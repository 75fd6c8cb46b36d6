"""The kernel's commands on real servers: what they hold afterwards, read by the oracle from their own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from portd.kernel.requests import head
from tests.compare import compare
from tests.datasets import fill_every_encoding
from tests.oracle.drive import SMALL, TINY, Limits
from tests.oracle.expect import Losses, check_value, representable
from tests.oracle.model import Entry, Snapshot, StreamValue
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.real import apply, saved, spec_of
from tests.oracle.strategies import effort, snapshots
from tests.wire import Wire, pack

if TYPE_CHECKING:
    from tests.conftest import Pair, ServerFactory
    from tests.servers import Binary, Server

FUZZ = effort(40)


def check_saved(wanted: Entry, found: Entry, server: Server, *, restored: bool) -> None:
    """One key as the server saved it, against the key of the snapshot."""
    where = f"{server!r} db {wanted.db} key {wanted.key!r} type {wanted.type}"
    assert found.expire_ms == wanted.expire_ms, where
    if restored and isinstance(wanted.value, StreamValue) and isinstance(found.value, StreamValue):
        assert found.value.entries == wanted.value.entries, where
        assert found.value.last_id == wanted.value.last_id, where
        pending = {name: group.pending for name, group in wanted.value.groups.items()}
        assert {name: group.pending for name, group in found.value.groups.items()} == pending, where
        return
    check_value(wanted.value, found.value, spec_of(server.binary), Losses(), where)


def check_server(snapshot: Snapshot, server: Server, restored: set[tuple[int, bytes]]) -> None:
    """Everything that the server can hold is there, and nothing else."""
    spec = spec_of(server.binary)
    now_ms = int(server.info("server")["server_time_usec"]) // 1000

    def alive(entries: list[Entry]) -> dict[tuple[int, bytes], Entry]:
        return {(e.db, e.key): e for e in entries if e.expire_ms is None or e.expire_ms > now_ms}

    wanted = alive([entry for entry in snapshot.entries if representable(entry, spec)])
    found = alive(saved(server).entries)  # servers up to 7.0 keep what has expired until somebody looks
    assert found.keys() == wanted.keys()
    for name, entry in wanted.items():
        check_saved(entry, found[name], server, restored=name in restored)


@pytest.mark.parametrize("limits", [Limits(), TINY], ids=["default", "tiny"])
def test_any_snapshot_on_a_real_server(binary: Binary, servers: ServerFactory, limits: Limits) -> None:
    """A real server holds what any written snapshot says, through RESTORE and through commands."""
    server = servers(binary)

    @given(snapshots())
    @FUZZ
    def one(snapshot: Snapshot) -> None:
        with Wire(server) as wire:
            wire.call("FLUSHALL")
        snapshot.functions.clear()
        data = encode(snapshot)  # canonical: RESTORE refuses some forms that loading a file accepts
        errors, restored = apply(data, server, limits)
        # A pending entry whose message was deleted is a dead letter where RESTORE does not bring it.
        assert [each for each in errors if "no command leaves it pending" not in str(each)] == []
        check_server(decode(data), server, restored)

    one()


def test_every_encoding_between_real_servers(matrix: Pair) -> None:
    """A real server's file arrives on every other version: values, expiries, groups, functions."""
    fill_every_encoding(matrix.source, seed=11, big_bytes=60_000)
    snapshot = saved(matrix.source)
    data = (matrix.source.directory / "dump.rdb").read_bytes()
    everything = snapshot.entries
    for limits in (SMALL, Limits()):
        with Wire(matrix.target) as wire:
            wire.call("FLUSHALL")
        errors, restored = apply(data, matrix.target, limits)
        assert errors == []
        snapshot.entries = [entry for entry in everything if len(entry.key) <= limits.chunk_bytes]
        check_server(snapshot, matrix.target, restored)
    tolerated = (
        "pending lost",
        "pel-count",
        "consumer b'",
        "field expiry",
    )  # what commands cannot carry to older versions
    found = [line for line in compare(matrix.source, matrix.target) if not any(words in line for words in tolerated)]
    assert found == []


# Of these COMMAND tells no key, since the subcommand decides whether there is one; or a channel; or they are no commands.
UNTOLD = {"OBJECT", "XINFO", "XGROUP", "MEMORY", "PFDEBUG", "DEBUG"}
CHANNELS = {"SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE", "CLUSTERSCAN"}  # the last one has a cursor there
TRAPS = {"HOST:", "POST"}
# Arguments of commands whose first key is not their first argument; ``k`` is the key.
KEYED = [
    "ZUNION 2 k b", "ZINTER 2 k b", "ZDIFF 2 k b", "ZINTERCARD 2 k b", "SINTERCARD 2 k b", "LMPOP 1 k LEFT",
    "ZMPOP 1 k MIN", "MSETEX 1 k v", "EVAL s 2 k b a", "EVALSHA s 1 k", "EVAL_RO s 1 k", "EVALSHA_RO s 1 k", "FCALL f 1 k",
    "FCALL_RO f 1 k", "BLMPOP 0 1 k LEFT", "BZMPOP 0 1 k MIN", "XREAD COUNT 1 STREAMS k 0", "XGROUP CREATE k g 0",
    "XREADGROUP GROUP g c STREAMS k >", "XINFO STREAM k", "OBJECT FREQ k", "BITOP AND k b", "MEMORY USAGE k",
    "MIGRATE host 1 k 0 1", "ZUNIONSTORE k 2 a b", "SORT k STORE b", "GEORADIUS k 0 0 1 m STORE b", "MSETNX k 1 b 2",
]  # fmt: skip


def test_first_keys_are_where_servers_say(binary: Binary, servers: ServerFactory) -> None:
    """The key that a letter names is the one that COMMAND and COMMAND GETKEYS tell, for every command of every server."""
    server = servers(binary)
    with Wire(server) as wire:
        table = {row[0].decode().upper(): row for row in wire.call("COMMAND")}
        for name, row in table.items():
            first, movable = row[3], "movablekeys" in str(row[2])
            found = head(pack(name, "k", "v", "w")).key
            if first == 1 and not movable and name not in CHANNELS:
                assert found == b"k", name
            elif not first and not movable and not (len(row) > 9 and row[9]) and name not in UNTOLD | TRAPS:
                assert found == b"", name
        for words in KEYED:
            command = words.split()
            if command[0] in table:
                reply = wire.many([("COMMAND", "GETKEYS", *command)], errors=True)[0]
                assert "no key arguments" in str(reply) or b"k" in reply, (
                    words,
                    reply,
                )  # Redis 5.0 does not know MEMORY's
                assert head(pack(*command)).key == b"k", words
