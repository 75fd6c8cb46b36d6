"""What a filter behind a plain replica leaves: the yardstick for rules in a sync.

A native replica of the source holds what a server makes of the stream. What rules take of that is brought, under the names that
it has in the target, into a third server by DUMP and RESTORE, and that one is compared with the target in every respect.
"""

from __future__ import annotations

import json
import random
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from tests.compare import compare
from tests.servers import Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

Key = tuple[int, bytes]  # by database and name
# Commands by what they do to their keys: r, read; w, written whatever it held before; m, changed. The letter behind that is the
# type of the key.
ROWS: Final = (
    "SET {ws} {n}", "SET {ws} {n} PX 90000", "APPEND {ms} {n}", "INCRBY {ms} {n}", "GETDEL {ms}", "SETRANGE {ms} 3 {n}",
    "MSET {ws} {n} {ws} b {ws} c", "MSETNX {ms} {n} {ms} b", "SETBIT {ms} {n} 1", "PEXPIRE {ms} 80000", "PERSIST {ms}",
    "BITOP OR {ws} {rs} {rs}", "BITOP NOT {ws} {rs}", "COPY {rs} {ms} REPLACE", "COPY {rl} {ml}", "COPY {rz} {mz} DB {d}",
    "RENAME {ms} {ms}", "RENAMENX {mh} {mh}", "RENAME {ml} {ml}", "RENAME {mx} {mx}", "MOVE {ms} {d}", "MOVE {mt} {d}",
    "DEL {ws} {wl} {wt}", "UNLINK {wh} {wz} {wx}", "DEL {ws} {ws} {ws} {ws}",
    "RPUSH {ml} {n} b c", "LPOP {ml}", "LMOVE {ml} {ml} LEFT RIGHT", "RPOPLPUSH {ml} {ml}", "LTRIM {ml} 0 5",
    "SORT {rl} ALPHA STORE {wl}", "SORT {rt} ALPHA LIMIT 0 2 STORE {wl}",
    "SADD {mt} {n} b", "SPOP {mt}", "SMOVE {mt} {mt} b", "SUNIONSTORE {wt} {rt} {rt}", "SINTERSTORE {wt} {rt} {rt}",
    "SDIFFSTORE {wt} {rt} {rt}", "SREM {mt} {n}",
    "ZADD {mz} {n} a 2 b", "ZINCRBY {mz} 2 a", "ZPOPMIN {mz}", "ZUNIONSTORE {wz} 2 {rz} {rz}", "ZRANGESTORE {wz} {rz} 0 1",
    "ZINTERSTORE {wz} 2 {rz} {rt} WEIGHTS 2 3", "ZDIFFSTORE {wz} 2 {rz} {rz}",
    "HSET {mh} f {n} g 2", "HDEL {mh} f", "HINCRBY {mh} n {n}", "GEOADD {mg} 13.{n} 38 a", "GEOSEARCHSTORE {wg} {rg} FROMMEMBER a BYRADIUS 9 km",
    "XADD {mx} * f {n}", "XTRIM {mx} MAXLEN 3", "XGROUP CREATE {mx} g 0 MKSTREAM", "XREADGROUP GROUP g c STREAMS {mx} >",
    "PFADD {mp} {n} b", "PFMERGE {mp} {rp} {rp}", "PFCOUNT {mp}",
    "MULTI; INCR {ms}; RPUSH {ml} {n}; RENAME {ms} {ms}; EXEC", "MULTI; SADD {mt} {n}; SUNIONSTORE {wt} {rt} {rt}; DEL {ws}; EXEC",
    "EVAL redis.call('SET',KEYS[1],ARGV[1])return(redis.call('APPEND',KEYS[2],ARGV[1])) 2 {ws} {ms} {n}",
)  # fmt: skip
KEY: Final = re.compile(r"\{[rmw](\w)\}")


class FilteredReplica:
    """A plain replica of a source, and what rules leave of it; a context manager.

    Args:
        source: is replicated from here on.
        place: where a key of the source is in the target, by database and name; None: rules leave it out. Written out, and not
            asked of the code that is tested.
        databases: that are looked at.
    """

    def __init__(self, source: Server, place: Callable[[int, bytes], Key | None], databases: int = 16) -> None:
        self._source = source
        self._place = place
        self._databases = databases
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.replica = self._stack.enter_context(Server(self._source.binary, databases=self._databases))
        self.filtered = self._stack.enter_context(Server(self._source.binary, databases=self._databases))
        self.replica.replicate(self._source)
        wait_for_sync(lambda: self.replica.info("replication")["master_link_status"] == "up")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def differences(self, target: Server, ignored: Collection[Key] = ()) -> list[str]:
        """What differs between that and the target, once the replica has all that the source wrote so far.

        Args:
            target: at rest, with as much.
            ignored: keys of the source that may differ.
        """
        end = self._source.info("replication")["master_repl_offset"]
        wait_for_sync(lambda: self.replica.info("replication")["slave_repl_offset"] >= end)
        return self.differences_from(self.replica, target, ignored)

    def differences_from(self, server: Server, target: Server, ignored: Collection[Key] = ()) -> list[str]:
        """The same of what the rules take of another server: of the source itself, from which a repair copies."""
        self._fill(server)
        places = [place for key in ignored if (place := self._place(*key)) is not None]
        return compare(self.filtered, target, ignored=places)

    def _fill(self, server: Server) -> None:
        """Brings what the rules take to where it belongs."""
        exact = self._source.binary.at_least(redis=(7, 0), valkey=(0,))
        with Wire(server) as there, Wire(self.filtered) as here:
            here.call("FLUSHALL")
            if exact:
                here.call("FUNCTION", "RESTORE", there.call("FUNCTION", "DUMP"), "FLUSH")
            for db in range(self._databases):
                there.call("SELECT", db)
                for key in there.call("KEYS", "*"):
                    to = self._place(db, key)
                    value = there.call("DUMP", key) if to is not None else None
                    if to is not None and value is not None:
                        left = there.call("PEXPIRETIME" if exact else "PTTL", key)
                        at = left if exact or left < 0 else left + int(time.time() * 1000)
                        here.call("SELECT", to[0])
                        here.call("RESTORE", to[1], max(at, 0), value, "REPLACE", "ABSTTL")


class Traffic:
    """Random commands.

    Args:
        source: where they run.
        seed: same seed, same commands.
        names: beginnings of keys: some that rules take, and some that they do not.
        databases: that are written to.
        keys: of each type, for each beginning and database.
    """

    def __init__(
        self, source: Server, seed: int, names: tuple[str, ...], databases: tuple[int, ...] = (0,), keys: int = 3
    ) -> None:
        self._source = source
        self._chance = random.Random(seed)
        self._names = names
        self._databases = databases
        self._keys = keys

    def run(self, count: int) -> None:
        """Runs so many rows; errors, of keys that are not there, are as good."""
        with Wire(self._source) as wire:
            for _ in range(count):
                if self._chance.random() < 0.2:
                    wire.call("SELECT", self._chance.choice(self._databases))
                wire.many(self._commands(), errors=True)

    def _commands(self) -> list[tuple[str, ...]]:
        """Those of a row."""
        other = str(self._chance.choice(self._databases))

        def key(use: re.Match[str]) -> str:
            return f"{self._chance.choice(self._names)}{use[1]}{self._chance.randrange(self._keys)}"

        row = self._chance.choice(ROWS)
        parts = [
            each.replace("{n}", str(self._chance.randrange(100))).replace("{d}", other) for each in row.split("; ")
        ]
        return [tuple(KEY.sub(key, part).split(" ")) for part in parts]


def read_letters(path: Path) -> list[tuple[int, Key]]:
    """Offset and key, as the source calls it, of each dead letter in a file."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        letter = json.loads(line)
        name = letter.get("source_key", letter["key"])
        found.append((letter["offset"], (letter.get("source_db", letter["db"]), name.encode())))
    return found
