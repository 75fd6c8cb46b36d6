"""Live writes that cannot be repeated or lost without being noticed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self

import hiredis

from tests.wire import Argument, Command, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Binary, Server

PAIR_SCRIPT = "redis.call('INCR', KEYS[1]); return redis.call('RPUSH', KEYS[2], ARGV[1])"
ONE_SCRIPT = "return redis.call('HINCRBY', KEYS[1], ARGV[1], 3)"
LATE_SCRIPT = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('INCR', KEYS[1]) end return 0"
GROUPS = (b"workers", b"audit")
RECONNECT_SECONDS = 0.05


class Workload:
    """An endless, seeded sequence of commands in which each one depends on those before it.

    Args:
        binary: the server that will execute them.
        seed: same seed, same sequence.
        keys: keys per type and database.
        databases: databases that are written to.
        swapdb: now and then SWAPDB of two of them.
        flushdb: now and then FLUSHDB of the last one.
        value_bytes: longest ordinary value.
    """

    def __init__(
        self,
        binary: Binary,
        *,
        seed: int = 0,
        keys: int = 50,
        databases: tuple[int, ...] = (0, 3, 11),
        swapdb: bool = False,
        flushdb: bool = False,
        value_bytes: int = 60,
    ) -> None:
        self.binary = binary
        self.databases = databases
        self.seed = seed
        self._random = random.Random(seed)
        self._keys = keys
        self._value_bytes = value_bytes
        self._swapdb = swapdb and len(databases) > 1
        self._flushdb = flushdb
        self._since_6_2 = binary.at_least(redis=(6, 2), valkey=(0,))
        self._field_ttl = binary.at_least(redis=(7, 4), valkey=(9, 0))
        self._makers: tuple[Callable[[], list[Command]], ...] = (
            self._string, self._string, self._list, self._list, self._set, self._zset, self._hash, self._stream,
            self._group, self._expiring, self._transaction, self._script, self._whole_key,
        )  # fmt: skip

    def setup(self) -> list[Command]:
        """Commands to begin with, and after anything that may have removed the groups; errors are expected."""
        commands: list[Command] = []
        for db in self.databases:
            commands.append(("SELECT", db))
            for number in range(3):
                key = f"live:stream:{number}"
                commands += [("XGROUP", "CREATE", key, group, "0", "MKSTREAM") for group in GROUPS]
        return commands

    def next(self) -> list[Command]:
        """The next commands, which must go over one connection in this order."""
        roll = self._random.random()
        if roll < 0.05:
            return [("SELECT", self._random.choice(self.databases))]
        if self._swapdb and roll < 0.051:
            first, second = self._random.sample(self.databases, 2)
            return [("SWAPDB", first, second)]
        if self._flushdb and roll < 0.0515:
            return [("SELECT", self.databases[-1]), ("FLUSHDB",), *self.setup()]
        return self._random.choice(self._makers)()

    def _key(self, kind: str, among: int | None = None) -> str:
        return f"live:{kind}:{self._random.randrange(among or self._keys)}"

    def _value(self) -> bytes:
        if self._random.random() < 0.4:
            return b"%d" % self._random.randint(-1000, 100_000)
        return self._random.randbytes(self._random.randint(0, self._value_bytes))

    def _string(self) -> list[Command]:
        key = self._key("string")
        number = self._key("number")
        choices: list[Command] = [
            ("INCR", number),
            ("INCRBY", number, self._random.randint(-100, 100)),
            ("DECR", number),
            ("INCRBYFLOAT", self._key("float"), "0.37"),
            ("APPEND", key, self._value()),
            ("SETRANGE", key, self._random.randint(0, 200), self._value()),
            ("SET", key, self._value()),
            ("GETSET", key, self._value()),
            ("SETBIT", self._key("bits"), self._random.randint(0, 5000), self._random.randint(0, 1)),
            ("MSET", key, self._value(), self._key("string"), self._value()),
            ("SETNX", key, self._value()),
            ("BITOP", "XOR", self._key("bits"), self._key("bits"), self._key("bits")),
            ("PFADD", self._key("hll"), self._value(), self._value()),
        ]
        return [self._random.choice(choices)]

    def _list(self) -> list[Command]:
        key, other = self._key("list"), self._key("list")
        choices: list[Command] = [
            ("LPUSH", key, self._value(), self._value()),
            ("RPUSH", key, self._value()),
            ("RPUSH", key, self._value(), self._value(), self._value()),
            ("RPOPLPUSH", key, other),
            ("LPOP", key),
            ("LINSERT", key, "AFTER", "7", self._value()),
            ("LREM", key, 1, "7"),
            ("LTRIM", key, 0, 300),
        ]
        if self._since_6_2:
            choices += [("LMOVE", key, other, "RIGHT", "RIGHT"), ("LPOP", key, 2)]
        return [self._random.choice(choices)]

    def _set(self) -> list[Command]:
        key, other = self._key("set"), self._key("set")
        choices: list[Command] = [
            ("SADD", key, self._value(), self._value()),
            ("SADD", key, self._random.randint(0, 400), self._random.randint(0, 400)),
            ("SPOP", key),
            ("SPOP", key, 3),
            ("SMOVE", key, other, self._random.randint(0, 400)),
            ("SREM", key, self._random.randint(0, 400)),
            ("SUNIONSTORE", self._key("union"), key, other),
        ]
        return [self._random.choice(choices)]

    def _zset(self) -> list[Command]:
        key = self._key("zset")
        choices: list[Command] = [
            ("ZADD", key, self._random.randint(-50, 50), self._random.randint(0, 300)),
            ("ZADD", key, repr(self._random.gauss(0, 100)), self._value()),
            ("ZINCRBY", key, "1.25", self._random.randint(0, 300)),
            ("ZINCRBY", key, "-0.1", self._random.randint(0, 300)),
            ("ZPOPMIN", key),
            ("ZREMRANGEBYRANK", key, 200, -1),
            ("ZUNIONSTORE", self._key("zunion"), 2, key, self._key("zset")),
            ("GEOADD", self._key("geo"), 13.361389, 38.115556, self._value()),
        ]
        return [self._random.choice(choices)]

    def _hash(self) -> list[Command]:
        key, field = self._key("hash"), f"f{self._random.randrange(200)}"
        number = f"n{self._random.randrange(20)}"
        choices: list[Command] = [
            ("HSET", key, field, self._value()),
            ("HSET", key, field, self._value(), number, self._random.randrange(100)),
            ("HINCRBY", key, number, self._random.randint(-9, 9)),
            ("HINCRBYFLOAT", key, f"x{self._random.randrange(9)}", "0.7"),
            ("HDEL", key, field),
            ("HSETNX", key, field, self._value()),
        ]
        if self._field_ttl:
            later = self._random.choice((50, 500, 100_000))
            choices += [
                ("HPEXPIRE", key, later, "FIELDS", 1, field),
                ("HPERSIST", key, "FIELDS", 1, field),
            ]
        return [self._random.choice(choices)]

    def _stream(self) -> list[Command]:
        key = self._key("stream", 3)
        choices: list[Command] = [
            ("XADD", key, "*", "f", self._value()),
            ("XADD", key, "*", "f", self._value(), "g", self._value()),
            ("XADD", key, "*", self._value(), self._value()),
            ("XADD", key, "MAXLEN", "~", 400, "*", "f", self._value()),
            ("XTRIM", key, "MAXLEN", 350),
        ]
        return [self._random.choice(choices)]

    def _group(self) -> list[Command]:
        key, group = self._key("stream", 3), self._random.choice(GROUPS)
        consumer = f"c{self._random.randrange(5)}"
        choices: list[Command] = [
            ("XREADGROUP", "GROUP", group, consumer, "COUNT", 3, "STREAMS", key, ">"),
            ("XREADGROUP", "GROUP", group, consumer, "COUNT", 2, "NOACK", "STREAMS", key, ">"),
        ]
        if self._since_6_2:
            choices += [
                ("XAUTOCLAIM", key, group, consumer, 0, "0", "COUNT", 2),
                ("XGROUP", "DELCONSUMER", key, group, f"gone{self._random.randrange(3)}"),
                ("XGROUP", "CREATECONSUMER", key, group, f"gone{self._random.randrange(3)}"),
            ]
        return [self._random.choice(choices)]

    def _expiring(self) -> list[Command]:
        key = self._key("expiring")
        short = self._random.choice((40, 150, 600, 3_000))
        choices: list[list[Command]] = [
            [("SET", key, 1, "PX", short)],
            [("EVAL", LATE_SCRIPT, 1, key)],
            [("PEXPIRE", key, short + 100)],  # renewed, often at the last moment
            [("INCR", key)],
            [("PERSIST", key)],
            [("SETEX", key, 1, 5)],
            [("LPUSH", self._key("expiring-list"), self._value()), ("PEXPIRE", self._key("expiring-list"), short)],
            [("EXPIRE", self._key("hash"), 100_000)],
        ]
        return self._random.choice(choices)

    def _transaction(self) -> list[Command]:
        inner = [command for _ in range(self._random.randint(1, 4)) for command in self._random.choice(
            (self._string, self._list, self._hash, self._zset))()]  # fmt: skip
        return [("MULTI",), *inner, ("EXEC",)]

    def _script(self) -> list[Command]:
        pair: Command = ("EVAL", PAIR_SCRIPT, 2, self._key("number"), self._key("list"), self._value())
        one: Command = ("EVAL", ONE_SCRIPT, 1, self._key("hash"), f"n{self._random.randrange(20)}")
        return [self._random.choice((pair, one))]

    def _whole_key(self) -> list[Command]:
        kind = self._random.choice(("string", "list", "set", "zset", "hash", "bits", "number"))
        key, other = self._key(kind), self._key(kind)
        choices: list[Command] = [("DEL", key), ("UNLINK", key, other), ("RENAMENX", key, other)]
        choices.append(("MOVE", key, self._random.choice(self.databases)))
        choices.append(("SORT", self._key("set"), "ALPHA", "STORE", self._key("list")))
        if self._since_6_2:
            choices.append(("COPY", key, other, "REPLACE"))
        return [self._random.choice(choices)]


class Line(NamedTuple):
    """A connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    replies: hiredis.Reader


class LiveTraffic:
    """Runs a workload against a server as a task of the running event loop.

    ``async with LiveTraffic(server, rate=2000) as traffic: ...`` writes until the block ends. A lost connection is
    made again: what the server executed is the truth. Replies that are errors are counted, not raised.

    Attributes:
        sent: commands by name.
        replies: replies received.
        errors: error replies by their first word.
        reconnects: connections lost.

    Args:
        server: a running server.
        rate: commands per second, 0 for as fast as it goes.
        group: commands per write.
        workload: settings of ``Workload``.
    """

    def __init__(self, server: Server, *, rate: float = 1000.0, group: int = 25, **workload: object) -> None:
        self.workload = Workload(server.binary, **workload)  # type: ignore[arg-type]
        self.sent: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.replies = 0
        self.reconnects = 0
        self._server = server
        self._rate = rate
        self._group_size = group
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def commands(self) -> int:
        """Commands sent."""
        return sum(self.sent.values())

    def start(self) -> Self:
        """Begins to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="live-traffic")
        return self

    async def stop(self) -> Counter[str]:
        """Stops after the reply to the last command sent, and returns ``sent``."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        return self.sent

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._write()
            except (OSError, EOFError):
                self.reconnects += 1
                await self._pause(RECONNECT_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Waits, but not longer than until ``stop``."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _write(self) -> None:
        """One connection's life."""
        line = Line(*await asyncio.open_unix_connection(str(self._server.path)), hiredis.Reader())
        try:
            if self._server.password:
                await self._send([("AUTH", self._server.password)], line)
            await self._send(self.workload.setup(), line)
            clock = asyncio.get_running_loop().time
            due = clock()
            while not self._stopping.is_set():
                commands: list[Command] = []
                while len(commands) < self._group_size:
                    commands += self.workload.next()
                await self._send(commands, line)
                if self._rate:
                    due = max(due + len(commands) / self._rate, clock() - 1.0)
                    if due > clock():
                        await self._pause(due - clock())
        finally:
            line.writer.close()

    async def _send(self, commands: list[Command], line: Line) -> None:
        line.writer.write(b"".join(pack(*command) for command in commands))
        self.sent.update(_name(command[0]) for command in commands)
        missing = len(commands)
        while missing:
            reply = line.replies.gets()
            if reply is False:
                data = await line.reader.read(1 << 16)
                if not data:
                    raise EOFError
                line.replies.feed(data)
                continue
            missing -= 1
            self.replies += 1
            for each in reply if isinstance(reply, list) else [reply]:
                if isinstance(each, hiredis.ReplyError):
                    self.errors[str(each).split(" ", 1)[0]] += 1


def _name(argument: Argument) -> str:
    return argument.decode() if isinstance(argument, bytes) else str(argument)
