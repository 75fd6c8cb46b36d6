"""Clusters that only pretend: as many primaries as are wanted, all in one other process, for what depends on their number.

``python -m tests.pretend`` runs a source and a target (`Pretended` does that for tests). The source tells a map, sends each shard's
snapshot of small strings, and a stream of ``SET`` that is let go by and by. The target keeps portd's own keys, so that what is
written is read again, and counts everything else. Nothing moves, nothing fails, and transactions watch nothing: what must be
right is tried on real servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import hiredis
import uvloop

from portd.kernel.crc64 import crc64
from portd.kernel.slots import SLOTS, slot_tag
from tests.servers import Server, default_binary
from tests.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.servers import Binary

VALUE: Final = b"x" * 32
BLOCK: Final = 512  # commands that the stream of a shard repeats
SENT_AT_ONCE: Final = 64 * 1024
OURS: Final = b"portd:"
OK: Final = b"+OK\r\n"
QUEUED: Final = b"+QUEUED\r\n"


# ------------------------------------------------------------------------------------------------------- both clusters


def bulk(value: bytes | None) -> bytes:
    """A string of RESP."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: Sequence[bytes]) -> bytes:
    """A list of RESP."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def info(**fields: object) -> bytes:
    """The answer to INFO."""
    return bulk("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode())


class Half:
    """One of the two clusters: a map that never changes.

    Args:
        name: ``source`` or ``target``.
        count: of primaries.
        make: of a node's number, makes what answers over one connection to it.

    Attributes:
        ports: of the nodes, in the order of their slots.
        asked: how often each command came, of all nodes together; subcommands are told apart.
        connections: that were made.
    """

    def __init__(self, name: str, count: int, make: Callable[[Half, int], Answering]) -> None:
        self.ports: list[int] = []
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.ids = [sha1(f"{name} {number}".encode(), usedforsecurity=False).hexdigest() for number in range(count)]
        self._make = make
        self._servers: list[asyncio.Server] = []

    def slots(self, number: int) -> tuple[int, int]:
        """The range that a node has, ends included."""
        count = len(self.ids)
        return number * SLOTS // count, (number + 1) * SLOTS // count - 1

    async def start(self) -> None:
        """Listens."""
        loop = asyncio.get_running_loop()
        for number in range(len(self.ids)):
            server = await loop.create_server(partial(self._make, self, number), "127.0.0.1", 0)
            self._servers.append(server)  # uvloop closes one that nobody has
            self.ports.append(server.sockets[0].getsockname()[1])

    def cluster(self, number: int, subcommand: bytes) -> bytes:
        """The answer to CLUSTER."""
        if subcommand == b"SLOTS":
            entries = []
            for each, port in enumerate(self.ports):
                first, last = self.slots(each)
                node = [bulk(b"127.0.0.1"), b":%d\r\n" % port, bulk(self.ids[each].encode()), array([])]
                entries.append(array([b":%d\r\n" % first, b":%d\r\n" % last, array(node)]))
            return array(entries)
        if subcommand == b"NODES":
            lines = []
            for each, port in enumerate(self.ports):
                flags = "myself,master" if each == number else "master"
                first, last = self.slots(each)
                address = f"127.0.0.1:{port}@{port}"
                lines.append(f"{self.ids[each]} {address} {flags} - 0 0 {each + 1} connected {first}-{last}\n")
            return bulk("".join(lines).encode())
        return bulk(b"cluster_enabled:1\r\ncluster_state:ok\r\n")

    def about(self, number: int, **more: object) -> bytes:
        """The answer to INFO."""
        return info(
            redis_version="7.2.4", server_name="valkey", valkey_version="9.1.0", redis_mode="cluster", run_id=self.ids[number],
            role="master", connected_slaves=0, master_replid=self.ids[number], master_replid2="0" * 40, second_repl_offset=-1,
            repl_backlog_size=1 << 20, used_memory=1 << 20, maxmemory=0, maxmemory_policy="noeviction", cluster_enabled=1, **more,
        )  # fmt: skip


class Answering(asyncio.Protocol):
    """One connection to a node; each command has a method of its name."""

    def __init__(self, half: Half, number: int) -> None:
        self.half = half
        self.number = number
        half.connections += 1
        self.id = half.connections
        self.label = b""
        self.open = True
        self.transport: asyncio.Transport
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self.open = False

    def data_received(self, data: bytes) -> None:
        """Answers."""
        self._reader.feed(data)
        gets, answers = self._reader.gets, []
        while (words := gets()) is not False:
            if answer := self.take(words):
                answers.append(answer)
        if answers and self.open:
            self.transport.write(b"".join(answers))

    def take(self, words: list[bytes]) -> bytes:
        """One command."""
        return self.answer(words)

    def answer(self, words: list[bytes]) -> bytes:
        """The answer to one command."""
        name = words[0].decode().upper()
        sub = f" {words[1].decode().upper()}" if name in {"CLUSTER", "CLIENT", "CONFIG", "INFO"} and len(words) > 1 else ""
        self.half.asked[name + sub] += 1
        method = getattr(self, f"do_{name.lower()}", None)
        return method(words) if method is not None else b"-ERR unknown command '%b'\r\n" % words[0]

    def do_ping(self, _: list[bytes]) -> bytes:
        """PING."""
        return b"+PONG\r\n"

    def do_cluster(self, words: list[bytes]) -> bytes:
        """CLUSTER."""
        return self.half.cluster(self.number, words[1].upper())

    def do_config(self, words: list[bytes]) -> bytes:
        """CONFIG GET."""
        known = {b"maxmemory": b"0", b"maxmemory-policy": b"noeviction", b"proto-max-bulk-len": b"536870912", b"databases": b"16"}
        known |= {b"client-output-buffer-limit": b"normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"}
        found = known.get(words[-1].lower()) if words[1].upper() == b"GET" else None
        return array([bulk(words[-1]), bulk(found)] if found is not None else [])

    def do_client(self, words: list[bytes]) -> bytes:
        """CLIENT."""
        if words[1].upper() == b"SETNAME":
            self.label = words[2]
        return b":%d\r\n" % self.id if words[1].upper() == b"ID" else OK

    def do_select(self, words: list[bytes]) -> bytes:
        """SELECT: there is one database."""
        return OK if words[1] == b"0" else b"-ERR DB index is out of range\r\n"


# ------------------------------------------------------------------------------------------------------------- source


class Shard:
    """What one primary of the source has: the same keys in its snapshot and over and over in its stream.

    Args:
        slots: of the shard.
        keys: of the snapshot.
    """

    def __init__(self, slots: tuple[int, int], keys: int) -> None:
        first, last = slots
        tags = [slot_tag(slot).encode() for slot in range(first, last + 1)]
        self.names = [b"{%b}:%d" % (tags[number % len(tags)], number) for number in range(max(keys, BLOCK))]
        self.keys = keys
        self.block = b"".join(pack("SET", name, VALUE) for name in self.names[:BLOCK])

    def snapshot(self) -> bytes:
        """As a server sends it."""
        body = [b"REDIS0011", b"\xfe\x00\xfb", _length(self.keys), b"\x00"]
        body += [b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(VALUE)), VALUE) for name in self.names[: self.keys]]
        data = b"".join(body) + b"\xff"
        return data + crc64(data).to_bytes(8, "little")

    def stream(self, offset: int, limit: int) -> bytes:
        """Bytes behind an offset, some of them, up to so many commands from the beginning."""
        at = offset % len(self.block)
        return self.block[at : at + min(SENT_AT_ONCE, self.size(limit) - offset)]

    def size(self, commands: int) -> int:
        """Of so many commands, which are whole blocks."""
        return commands // BLOCK * len(self.block)


def _length(number: int) -> bytes:
    """As RDB has it."""
    return bytes([number]) if number < 64 else b"\x80" + number.to_bytes(4, "big")


class Sending(Answering):
    """A connection to a primary of the source."""

    shards: list[Shard]
    limit = 0  # commands of each shard that are let go
    going: set[Sending]

    def __init__(self, half: Half, number: int) -> None:
        super().__init__(half, number)
        self._offset: int | None = None  # of a replica: what was sent
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self.going.discard(self)

    def pause_writing(self) -> None:
        """The other end is slow."""
        self._paused = True

    def resume_writing(self) -> None:
        """It is not."""
        self._paused = False
        self.go()

    def go(self) -> None:
        """Sends of the stream what may go."""
        shard = self.shards[self.number]
        while self._offset is not None and not self._paused and self.open:
            data = shard.stream(self._offset, self.limit)
            if not data:
                return
            self._offset += len(data)
            self.transport.write(data)

    def do_info(self, _: list[bytes]) -> bytes:
        """INFO."""
        shard = self.shards[self.number]
        return self.half.about(
            self.number, master_repl_offset=shard.size(self.limit), db0=f"keys={shard.keys},expires=0,avg_ttl=0"
        )

    def do_replconf(self, words: list[bytes]) -> bytes:
        """REPLCONF: to an ACK there is no answer."""
        return b"" if words[1].upper() == b"ACK" else OK

    def do_psync(self, words: list[bytes]) -> bytes:
        """PSYNC: the snapshot at offset 0, or what is behind an offset."""
        ours = self.half.ids[self.number].encode()
        self.going.add(self)
        asyncio.get_running_loop().call_soon(self.go)
        if words[1] == ours:
            self._offset = int(words[2]) - 1
            return b"+CONTINUE %b\r\n" % ours
        self._offset = 0
        data = self.shards[self.number].snapshot()
        return b"+FULLRESYNC %b 0\r\n$%d\r\n%b" % (ours, len(data), data)


# ------------------------------------------------------------------------------------------------------------- target


class Kept:
    """What a primary of the target has: keys of portd's, and numbers of the rest."""

    def __init__(self) -> None:
        self.strings: dict[bytes, bytes] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.clients: set[Taking] = set()


class Taking(Answering):
    """A connection to a primary of the target."""

    nodes: list[Kept]
    commands: bytes  # the answer to COMMAND
    sets = 0  # of keys that are not portd's, over all connections

    def __init__(self, half: Half, number: int) -> None:
        super().__init__(half, number)
        self._kept = self.nodes[number]
        self._queue: list[list[bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        super().connection_made(transport)
        self._kept.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self._kept.clients.discard(self)

    def take(self, words: list[bytes]) -> bytes:
        """One command, at once or queued."""
        if self._queue is None or words[0] in {b"EXEC", b"DISCARD"}:
            return self.answer(words)
        self._queue.append(words)
        return QUEUED

    def answer(self, words: list[bytes]) -> bytes:
        """Data is counted first: nearly all that comes is data."""
        if words[0] == b"SET" and not words[1].startswith(OURS):
            Taking.sets += 1
            return OK
        return super().answer(words)

    def do_multi(self, _: list[bytes]) -> bytes:
        """MULTI."""
        self._queue = []
        return OK

    def do_exec(self, _: list[bytes]) -> bytes:
        """EXEC."""
        queue, self._queue = self._queue or [], None
        return array([self.answer(words) for words in queue])

    def do_info(self, _: list[bytes]) -> bytes:
        """INFO."""
        return self.half.about(self.number, master_repl_offset=1)

    def do_command(self, _: list[bytes]) -> bytes:
        """COMMAND."""
        return self.commands

    def do_client(self, words: list[bytes]) -> bytes:
        """CLIENT."""
        if words[1].upper() == b"LIST":
            return bulk(b"".join(b"id=%d addr=127.0.0.1:1 name=%b\n" % (each.id, each.label) for each in self._kept.clients))
        if words[1].upper() == b"KILL":
            for each in [each for each in self._kept.clients if each.id == int(words[3])]:
                each.open = False
                each.transport.close()
        return super().do_client(words)

    def do_mset(self, words: list[bytes]) -> bytes:
        """MSET of data."""
        Taking.sets += len(words) // 2
        return OK

    def do_set(self, words: list[bytes]) -> bytes:
        """SET of a key of portd's."""
        self._kept.strings[words[1]] = words[2]
        return OK

    def do_get(self, words: list[bytes]) -> bytes:
        """GET."""
        return bulk(self._kept.strings.get(words[1]))

    def do_del(self, words: list[bytes]) -> bytes:
        """DEL."""
        gone = [self._kept.strings.pop(key, None) or self._kept.hashes.pop(key, None) for key in words[1:]]
        return b":%d\r\n" % sum(each is not None for each in gone)

    def do_exists(self, words: list[bytes]) -> bytes:
        """EXISTS."""
        return b":%d\r\n" % sum(key in self._kept.strings or key in self._kept.hashes for key in words[1:])

    def do_hset(self, words: list[bytes]) -> bytes:
        """HSET."""
        self._kept.hashes.setdefault(words[1], {}).update(zip(words[2::2], words[3::2], strict=True))
        return b":0\r\n"

    def do_hdel(self, words: list[bytes]) -> bytes:
        """HDEL."""
        for field in words[2:]:
            self._kept.hashes.get(words[1], {}).pop(field, None)
        return b":0\r\n"

    def do_hget(self, words: list[bytes]) -> bytes:
        """HGET."""
        return bulk(self._kept.hashes.get(words[1], {}).get(words[2]))

    def do_hgetall(self, words: list[bytes]) -> bytes:
        """HGETALL."""
        return array([bulk(word) for pair in self._kept.hashes.get(words[1], {}).items() for word in pair])

    def do_pttl(self, words: list[bytes]) -> bytes:
        """PTTL: what is there lasts."""
        return b":9000\r\n" if words[1] in self._kept.hashes else b":-2\r\n"

    def do_scan(self, _: list[bytes]) -> bytes:
        """SCAN of nothing: data is not kept."""
        return array([bulk(b"0"), array([])])

    def do_dbsize(self, _: list[bytes]) -> bytes:
        """DBSIZE: likewise."""
        return b":0\r\n"

    def do_pexpire(self, _: list[bytes]) -> bytes:
        """PEXPIRE."""
        return b":1\r\n"

    def do_rpush(self, _: list[bytes]) -> bytes:
        """RPUSH."""
        return b":1\r\n"

    def do_watch(self, _: list[bytes]) -> bytes:
        """WATCH: nobody else is there."""
        return OK

    do_unwatch = do_restore = do_quit = do_watch


# ------------------------------------------------------------------------------------------------------------ process


class Orders(asyncio.Protocol):
    """Carries out what the test wants: ``GO commands``, ``TELL``; an answer is a line of JSON."""

    def __init__(self, source: Half, target: Half) -> None:
        self._source, self._target = source, target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """One order at a time."""
        words = data.split()
        if words[0] == b"GO":
            Sending.limit = int(words[1])
            for each in tuple(Sending.going):
                each.go()
        self._transport.write(json.dumps(self._told()).encode() + b"\n")

    def _told(self) -> dict[str, Any]:
        halves = {"source": self._source, "target": self._target}
        told: dict[str, Any] = {"sets": Taking.sets, "following": len(Sending.going)}
        for name, half in halves.items():
            told[name] = {"ports": half.ports[:2], "connections": half.connections, "asked": dict(half.asked.most_common())}
        return told


async def serve(sources: int, targets: int, keys: int, path: str) -> None:
    """Runs both clusters until the process is ended."""
    source, target = Half("source", sources, Sending), Half("target", targets, Taking)
    Sending.shards = [Shard(source.slots(number), keys // sources) for number in range(sources)]
    Sending.going = set()
    Taking.nodes = [Kept() for _ in range(targets)]
    Taking.commands = sys.stdin.buffer.read()
    await source.start()
    await target.start()
    orders = await asyncio.get_running_loop().create_unix_server(partial(Orders, source, target), path)
    print("ready", flush=True)
    await orders.serve_forever()


def main() -> None:
    """Parses arguments, runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.pretend", description=__doc__)
    parser.add_argument("sources", type=int)
    parser.add_argument("targets", type=int)
    parser.add_argument("keys", type=int)
    parser.add_argument("path")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.sources, arguments.targets, arguments.keys, arguments.path))


def commands_of(binary: Binary | None = None) -> bytes:
    """What a real server answers to COMMAND, as it comes over the wire."""
    with Server(binary or default_binary()) as server, socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(server.path))
        asked.sendall(pack("COMMAND"))
        reader, found = hiredis.Reader(), b""
        while reader.gets() is False:
            reader.feed(data := asked.recv(SENT_AT_ONCE))
            found += data
        return found


class Pretended:
    """Both clusters in a process of their own; a context manager.

    Args:
        sources: primaries of the source.
        targets: primaries of the target.
        keys: of the source, over all shards.
        commands: see `commands_of`.
    """

    def __init__(self, sources: int, targets: int, keys: int, commands: bytes) -> None:
        self._sources = sources
        self._directory = tempfile.TemporaryDirectory(prefix="portd-test-")
        self._path = Path(self._directory.name) / "orders"
        self._words = [sys.executable, "-m", "tests.pretend", *map(str, (sources, targets, keys, self._path))]
        self._commands = commands
        self.keys = keys // sources * sources

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self._commands)
        self._process.stdin.close()
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self._words} did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def order(self, *words: object) -> dict[str, Any]:
        """``GO commands`` lets each shard of the source send so many commands in all, ``TELL`` nothing; what there is then."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self._path))
            asked.sendall(" ".join(map(str, words)).encode())
            with asked.makefile() as answer:
                told: dict[str, Any] = json.loads(answer.readline())
                return told

    def urls(self) -> tuple[str, str]:
        """Of source and target."""
        told = self.order("TELL")
        source, target = (
            ",".join(f"127.0.0.1:{port}" for port in told[name]["ports"]) for name in ("source", "target")
        )
        return f"redis+cluster://{source}", f"redis+cluster://{target}"


if __name__ == "__main__":
    main()
