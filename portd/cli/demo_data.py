"""What `portd demo` copies: data of every type, live writes, and the comparison at the end."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import Redis

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


async def fill(client: Redis, keys: int, hash_fields: int) -> None:
    """Fills an empty server: mixed keys over two databases, a function library, one big hash."""
    chance = random.Random(1)  # noqa: S311 - test data, the same each time
    for db, count in ((1, keys // 4), (0, keys - keys // 4)):
        await _run(client, "SELECT", db)
        for start in range(0, count, PIPELINE_COMMANDS):
            pipe = client.pipeline(transaction=False)
            for number in range(start, min(start + PIPELINE_COMMANDS, count)):
                for command in mixed_key(number, chance):
                    pipe.execute_command(*command)
            await pipe.execute()
    for start in range(0, hash_fields, HASH_FIELDS_PER_COMMAND):
        fields = range(start, min(start + HASH_FIELDS_PER_COMMAND, hash_fields))
        pairs = [part for field in fields for part in (f"field:{field:010d}", f"{chance.getrandbits(128):032x}")]
        await _run(client, "HSET", BIG_HASH, *pairs)
    await _run(client, "FUNCTION", "LOAD", LIBRARY)


class LiveWriter:
    """Keeps changing the source: counters, lists, transactions, deletes; nothing of it may be doubled or lost.

    Args:
        client: connected to the source, database 0.
        keys: how many keys were filled.

    Attributes:
        written: commands the source has executed.
    """

    def __init__(self, client: Redis, keys: int) -> None:
        self.written = 0
        self._client = client
        self._keys = keys
        self._chance = random.Random(2)  # noqa: S311 - test data, the same each time
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Writes until `stop`."""
        while not self._stop.is_set():
            pipe = self._client.pipeline(transaction=self._chance.random() < 0.5)
            for _ in range(LIVE_COMMANDS):
                pipe.execute_command(*self._command())
            await pipe.execute()
            self.written += LIVE_COMMANDS
            try:
                async with asyncio.timeout(LIVE_PAUSE_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue  # the pause is over

    def stop(self) -> None:
        """Ends `run` after the commands under way."""
        self._stop.set()

    def _command(self) -> Command:
        chance = self._chance
        number = chance.randrange(self._keys)
        kinds: list[Command] = [
            ("INCR", f"live:counter:{number % 50}"),
            ("INCRBYFLOAT", f"live:float:{number % 50}", "0.5"),
            ("LPUSH", f"live:list:{number % 20}", number),
            ("RPOPLPUSH", f"live:list:{number % 20}", "live:moved"),
            ("APPEND", f"live:text:{number % 20}", "x"),
            ("ZINCRBY", "live:scores", 1, f"member{number % 100}"),
            ("HINCRBY", BIG_HASH, f"live:{number % 1000}", 1),
            ("SET", f"demo:new:{number}", number, "EX", 3600),
            ("DEL", f"demo:{number}"),
            ("XADD", "live:stream", "MAXLEN", "~", 1000, "*", "n", number),
        ]
        return kinds[chance.randrange(len(kinds))]


@dataclass(frozen=True, slots=True)
class Summary:
    """One end as it is at the end.

    Attributes:
        keys: by database.
        with_ttl: keys that expire, by database.
        hash_fields: of the big hash.
        digest: DEBUG DIGEST over all values of all databases.
        functions: names of the function libraries.
    """

    keys: dict[str, int]
    with_ttl: dict[str, int]
    hash_fields: int
    digest: str
    functions: tuple[str, ...]


async def summarise(client: Redis) -> Summary:
    """Describes a server by what both ends must agree on."""
    space: dict[str, dict[str, int]] = await client.info("keyspace")
    libraries = await _run(client, "FUNCTION", "LIST")
    return Summary(
        keys={db: figures["keys"] for db, figures in sorted(space.items())},
        with_ttl={db: figures["expires"] for db, figures in sorted(space.items())},
        hash_fields=await _run(client, "HLEN", BIG_HASH),
        digest=_text(await _run(client, "DEBUG", "DIGEST")),
        functions=tuple(sorted(_text(library[1]) for library in libraries)),
    )


async def offset_of(client: Redis) -> int:
    """The source's replication offset now."""
    return int((await client.info("replication"))["master_repl_offset"])


async def _run(client: Redis, *command: object) -> Any:
    untyped: Any = client  # redis-py has no types for commands as they are
    return await untyped.execute_command(*command)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
