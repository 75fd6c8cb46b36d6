"""One end that is a cluster: keys are read from the nodes that have their slots, wherever these are by now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import SourceLost, TargetBusy, first_cause
from portd.groups import TaskGroup
from portd.kernel.slots import key_slot
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.clusterview import ASKED_AT_ONCE, of_node, view_of
from portd.net.topology import ALL_SLOTS, slots_of
from portd.verify.live import LiveReader, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.snapshot import SnapshotDecoder
    from portd.net.clusterview import View
    from portd.net.endpoint import Endpoint
    from portd.net.identity import ServerIdentity
    from portd.net.topology import Address, Ranges
    from portd.verify.live import NamedKey, Pause, Sink

TRIES: Final = 3  # a key is looked for at so many owners, then it is said to be on its way
PATIENCE_SECONDS: Final = 60.0  # for a cluster one of whose nodes is gone: until a replica has taken its place
WATCH_SECONDS: Final = 2.0  # between two looks at the map

log = get_logger("verify")


class ClusterReader:
    """Reads keys of a cluster, as `LiveReader` does of a server; see there for what has no words here.

    Args:
        endpoint: of the cluster.
        largest_bytes: see `LiveReader`.
        wanted: slots.

    Attributes:
        undecided: keys that nobody had when they were looked for: their slots are on their way, or have no owner.
        one_shard: False: all slots that are wanted are seen.
        view: the newest one.
    """

    def __init__(self, endpoint: Endpoint, largest_bytes: int, wanted: Ranges = ALL_SLOTS) -> None:
        self.too_large: set[NamedKey] = set()
        self.undecided: set[NamedKey] = set()
        self.one_shard = False
        self.endpoint = endpoint
        self.wanted = wanted
        self._largest = largest_bytes
        self._readers: dict[Address, LiveReader] = {}

    async def open(self) -> None:
        """Connects to every node that has some of the slots.

        Raises:
            SourceLost: a node cannot be reached, or none tells the map.
            ConfigError: this is no cluster.
            TargetError: a node does not let us in, or does not say who it is.
        """
        self.view = await view_of(self.endpoint)
        places = {(node.host, node.port): node for node, _ in self.view.nodes_of(self.wanted)}
        for gone in self._readers.keys() - places.keys():
            self._readers.pop(gone).close()
        limit = asyncio.Semaphore(ASKED_AT_ONCE)

        async def enter(address: Address) -> None:
            reader = LiveReader(of_node(self.endpoint, places[address]), self._largest)
            try:
                async with limit:
                    await reader.open()
            except BaseException:
                reader.close()
                raise
            self._readers[address] = reader

        new = places.keys() - self._readers.keys()
        try:
            async with TaskGroup() as group:
                for address in new:
                    group.create_task(enter(address), name=f"open {address[0]}:{address[1]}")
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        if not self._readers:
            raise SourceLost(f"{self.endpoint.display} has none of the slots that are wanted", hint="see include_slots")

    async def refresh(self) -> None:
        """Looks who has the slots now, and connects to nodes that are new; waits where that cannot be told.

        Raises:
            SourceLost: that takes too long.
        """
        try:
            await self.open()
        except (SourceLost, TargetBusy) as error:
            await self.recover(error)

    async def recover(self, error: Exception) -> None:
        """Connects again to all nodes; waits for a replica to take the place of one that is gone.

        Raises:
            SourceLost: that takes too long.
        """
        log.warning("a node of the cluster is gone, its slots are read when they have an owner", error=str(error))
        self.close()
        backoff = Backoff(0.2, 2.0)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await self.open()
                    except (SourceLost, TargetBusy):
                        await asyncio.sleep(backoff.next_wait())
                    else:
                        return
        except TimeoutError:
            raise error from None

    # -- what it is

    @property
    def _all(self) -> list[LiveReader]:
        return list(self._readers.values())

    @property
    def identity(self) -> ServerIdentity:
        """Of the oldest one of its nodes."""
        return min((each.identity for each in self._all), key=lambda found: found.version)

    @property
    def run_ids(self) -> set[str]:
        """Of its nodes' processes."""
        return set().union(*(each.run_ids for each in self._all))

    @property
    def exact_ttl(self) -> bool:
        """All nodes tell expiry times to the millisecond."""
        return all(each.exact_ttl for each in self._all)

    @property
    def databases(self) -> list[int]:
        """Those that hold keys on any node."""
        return sorted({db for each in self._all for db in each.databases})

    @property
    def keys(self) -> int:
        """On all nodes."""
        return sum(each.keys for each in self._all)

    @property
    def magic(self) -> bytes:
        """The first bytes of a snapshot of its newest node."""
        return max(self._all, key=lambda each: each.identity.version).magic

    def parts(self, slots: Ranges | None = None) -> list[Part]:
        """The nodes that have some of *slots*, of those that are wanted where none are given."""
        found = self.view.nodes_of(self.wanted if slots is None else slots)
        return [Part(self._readers[node.host, node.port], shard, node.address) for node, shard in found]

    # -- reading

    async def offset(self) -> int:
        """How far the history of the node goes that has the lowest slot: what a link of one shard follows."""
        return await self.parts()[0].reader.offset()

    async def tell(
        self, keys: Sequence[NamedKey], decoder: SnapshotDecoder, sink: Sink, after: Pause | None = None
    ) -> None:
        """Like `LiveReader.tell`. Keys that their node does not have any more are looked for at the next one."""
        rest = list(keys)
        for number in range(TRIES):
            if number:
                await self.refresh()
            rest = await self._tell(rest, decoder, sink, after)
            if not rest:
                return
        self.undecided.update(rest)

    async def _tell(
        self, keys: Sequence[NamedKey], decoder: SnapshotDecoder, sink: Sink, after: Pause | None
    ) -> list[NamedKey]:
        """By the map as it is known; those that are elsewhere."""
        left: list[NamedKey] = []
        by_node: dict[Address, list[NamedKey]] = {}
        for key in keys:
            node = self.view.topology.owner(key_slot(key[1]))
            if node is None or (node.host, node.port) not in self._readers:
                left.append(key)
            else:
                by_node.setdefault((node.host, node.port), []).append(key)
        for address, those in by_node.items():
            reader = self._readers[address]
            await reader.tell(those, decoder, sink, after)
            self.too_large |= reader.too_large
            left += reader.elsewhere
            reader.clear_notes()
        return left

    async def libraries(self) -> list[dict[bytes, bytes]] | None:
        """Function libraries of every node; None where one does not tell."""
        found = [await each.functions() for each in self._all]
        known = [each for each in found if each is not None]
        return known if len(known) == len(found) else None

    def clear_notes(self) -> None:
        """Forgets which keys could not be read."""
        self.too_large.clear()
        self.undecided.clear()

    def close(self) -> None:
        """Ends all connections; idempotent."""
        for each in self._all:
            each.close()
        self._readers.clear()


class MoveWatch:
    """Which slots of an end may have been elsewhere while its nodes were read one after the other.

    Args:
        reader: of the end, open.
    """

    def __init__(self, reader: LiveReader | ClusterReader) -> None:
        self._reader = reader
        self._view: View | None = None
        self._moved: set[int] = set()

    async def begin(self) -> None:
        """The first look.

        Raises:
            SourceLost: the map cannot be read.
        """
        if isinstance(self._reader, ClusterReader):
            await self._reader.refresh()
            self._view = self._reader.view
            self._moved.update(self._view.unsettled(self._reader.wanted))

    async def run(self) -> None:
        """Looks now and then, until it is cancelled. A map that cannot be read for a while says nothing."""
        while self._view is not None:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                self._note(await view_of(self._reader.endpoint))
            except (SourceLost, TargetBusy) as error:
                log.info("the map cannot be read now", error=str(error.args[0]))

    async def end(self, slots: Ranges) -> list[int]:
        """The last look; which of these slots moved, were on their way or had no owner at any look, ascending.

        Raises:
            SourceLost: the map cannot be read.
        """
        if isinstance(self._reader, ClusterReader):
            await self._reader.refresh()
            self._note(self._reader.view)
        return [slot for slot in slots_of(slots) if slot in self._moved]

    def _note(self, now: View) -> None:
        assert self._view is not None
        assert isinstance(self._reader, ClusterReader)
        self._moved.update(now.elsewhere_since(self._view, self._reader.wanted))
        self._view = now


Reader = LiveReader | ClusterReader


def reader_of(endpoint: Endpoint, largest_bytes: int, wanted: Ranges = ALL_SLOTS) -> Reader:
    """What reads keys of an end, whatever it is."""
    if endpoint.seeds is None:
        return LiveReader(endpoint, largest_bytes)
    return ClusterReader(endpoint, largest_bytes, wanted)
