"""What `portd demo` copies: data of every type, live writes, and the comparison at the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portd.cli.demo_ends import run, text
from portd.kernel.slots import key_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

    from portd.cli.demo_ends import End

PIPELINE_COMMANDS = 500  # per round trip while filling
HASH_FIELDS_PER_COMMAND = 500
LIVE_COMMANDS = 200  # per round trip of the live writer
LIVE_PAUSE_SECONDS = 0.05
BIG_HASH = "demo:big-hash"
LIBRARY = "#!lua name=demo\nserver.register_function('demo_add', function(k, a) return a[1] + a[2] end)"

Command = tuple[Any, ...]


def mixed_key(number: int, chance: random.Random) -> list[Command]:
    """Commands that make one key; which type it has depends on its number, one in five gets a TTL of an hour or more."""
    key = f"demo:{number}"
    text = f"{chance.getrandbits(128):032x}"
    kinds: list[list[Command]] = [
        [("SET", key, text)],
        [("SET", key, number)],
        [("HSET", key, *(f"field{n}" if n % 2 == 0 else f"{text}{n}" for n in range(12)))],
        [("RPUSH", key, *(f"{text}{n}" for n in range(20)))],
        [("SADD", key, *range(number, number + 30))],
        [("SADD", key, *(f"{text}{n}" for n in range(10)))],
        [("ZADD", key, *(n / 7 if n % 2 == 0 else f"{text}{n}" for n in range(20)))],
        [("XADD", key, "*", "text", text), ("XGROUP", "CREATE", key, "readers", "0")],
        [("SET", key, text * chance.randrange(1, 100))],
    ]
    commands = kinds[number % len(kinds)]
    if number % 5 == 0:
        commands.append(("PEXPIRE", key, 3_600_000 + chance.randrange(3_600_000)))
    return commands


async def fill(end: End, keys: int, hash_fields: int) -> None:
    """Fills an empty end: mixed keys, of a server over two databases, a function library on each server, one big hash."""
    chance = random.Random(1)  # noqa: S311 - test data, the same each time
    for db, count in ((0, keys),) if end.clustered else ((1, keys // 4), (0, keys - keys // 4)):
        if not end.clustered:
            await run(end.clients[0], "SELECT", db)
        for start in range(0, count, PIPELINE_COMMANDS):
            numbers = range(start, min(start + PIPELINE_COMMANDS, count))
            await send(end, (command for number in numbers for command in mixed_key(number, chance)))
    client = end.clients[end.shard_of(BIG_HASH)]
    for start in range(0, hash_fields, HASH_FIELDS_PER_COMMAND):
        fields = range(start, min(start + HASH_FIELDS_PER_COMMAND, hash_fields))
        pairs = [part for field in fields for part in (f"field:{field:010d}", f"{chance.getrandbits(128):032x}")]
        await run(client, "HSET", BIG_HASH, *pairs)
    for client in end.clients:
        await run(client, "FUNCTION", "LOAD", LIBRARY)


async def send(end: End, commands: Iterable[Command], *, transaction: bool = False) -> None:
    """Sends commands to the servers that have their keys; in one transaction, they have one slot. What is on its way is left out."""
    pipes: dict[int, Any] = {}
    async with end.writing:
        for command in commands:
            key = command[2 if command[0] == "XGROUP" else 1]
            if key_slot(key.encode()) in end.away:
                continue
            number = end.shard_of(key)
            if number not in pipes:
                pipes[number] = end.clients[number].pipeline(transaction=transaction)
            pipes[number].execute_command(*command)
        for pipe in pipes.values():
            await pipe.execute()


class LiveWriter:
    """Keeps changing the source: counters, lists, transactions, deletes; nothing of it may be doubled or lost.

    Args:
        end: the source, where database 0 is selected.
        keys: how many keys were filled.

    Attributes:
        written: commands the source has executed.
    """

    def __init__(self, end: End, keys: int) -> None:
        self.written = 0
        self._end = end
        self._keys = keys
        self._chance = random.Random(2)  # noqa: S311 - test data, the same each time
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Writes until `stop`."""
        while not self._stop.is_set():
            if self._chance.random() < 0.5:  # all keys with one tag, so that a cluster takes it, too
                tag = self._chance.randrange(50)
                await send(self._end, [self._tagged(tag) for _ in range(LIVE_COMMANDS)], transaction=True)
            else:
                await send(self._end, [self._any() for _ in range(LIVE_COMMANDS)])
            self.written += LIVE_COMMANDS
            try:
                async with asyncio.timeout(LIVE_PAUSE_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue  # the pause is over

    def stop(self) -> None:
        """Ends `run` after the commands under way."""
        self._stop.set()

    def _tagged(self, tag: int) -> Command:
        """A command whose keys have one slot."""
        number = self._chance.randrange(self._keys)
        live = f"live:{{{tag}}}"
        kinds: list[Command] = [
            ("INCR", f"{live}:counter"),
            ("INCRBYFLOAT", f"{live}:float", "0.5"),
            ("LPUSH", f"{live}:list", number),
            ("RPOPLPUSH", f"{live}:list", f"{live}:moved"),
            ("APPEND", f"{live}:text", "x"),
            ("ZINCRBY", f"{live}:scores", 1, f"member{number % 100}"),
            ("XADD", f"{live}:stream", "MAXLEN", "~", 1000, "*", "n", number),
        ]
        return self._chance.choice(kinds)

    def _any(self) -> Command:
        number = self._chance.randrange(self._keys)
        kinds: list[Command] = [
            self._tagged(number % 50),
            ("HINCRBY", BIG_HASH, f"live:{number % 1000}", 1),
            ("SET", f"demo:new:{number}", number, "EX", 3600),
            ("DEL", f"demo:{number}"),
        ]
        return self._chance.choice(kinds)


@dataclass(frozen=True, slots=True)
class Summary:
    """One end as it is at the end.

    Attributes:
        keys: by database; of a cluster, all of them.
        with_ttl: keys that expire, likewise.
        hash_fields: of the big hash.
        digest: DEBUG DIGEST over all values of all databases, and all shards, wherever a key is.
        functions: names of the function libraries, which each shard has.
    """

    keys: dict[str, int]
    with_ttl: dict[str, int]
    hash_fields: int
    digest: str
    functions: tuple[str, ...]


async def summarise(end: End) -> Summary:
    """Describes an end by what both must agree on."""
    keys: Counter[str] = Counter()
    with_ttl: Counter[str] = Counter()
    digest, functions = 0, set()
    for client in end.clients:
        for db, figures in sorted((await client.info("keyspace")).items()):
            name = "all shards" if end.clustered else db
            keys[name] += figures["keys"]
            with_ttl[name] += figures["expires"]
        digest ^= int(text(await run(client, "DEBUG", "DIGEST")), 16)  # the server makes it so of its keys
        libraries = await run(client, "FUNCTION", "LIST")
        functions.add(tuple(sorted(text(library[1]) for library in libraries)))
    alike = functions.pop() if len(functions) == 1 else ("not the same in all shards",)
    return Summary(
        keys=dict(keys),
        with_ttl=dict(with_ttl),
        hash_fields=await run(end.clients[end.shard_of(BIG_HASH)], "HLEN", BIG_HASH),
        digest=f"{digest:040x}",
        functions=alike,
    )


async def forget_sync(end: End, prefix: str) -> None:
    """Removes what a sync keeps in its target, which is no data."""
    for client in end.clients:
        names = [name async for name in client.scan_iter(match=f"{prefix}*", count=1000)]
        for start in range(0, len(names), PIPELINE_COMMANDS):
            pipe = client.pipeline(transaction=False)
            for name in names[start : start + PIPELINE_COMMANDS]:  # one each: they are in many slots
                pipe.delete(name)
            await pipe.execute()


async def offset_of(client: Redis) -> int:
    """The source's replication offset now."""
    return int((await client.info("replication"))["master_repl_offset"])
