"""A cluster as source: its map, who has the slots of which link, and what ends all its links when slots move.

Each link reads one primary, and takes of it the slots that the primary had at the start. While they stay together, wherever
that is, the link follows them: a replica that is promoted, or another node that took all of them. What moves to the primary of
another link would be in neither stream in its order, so the sync ends before somebody relies on it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from portd.errors import ConfigError, SlotsMoved, SourceError, SourceLost, first_cause
from portd.groups import TaskGroup
from portd.log import get_logger
from portd.net.control import Refused, open_control
from portd.net.topology import NOBODY, NoCluster, moving, ranges_of, slots_of, spelled
from portd.source.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Node, Ranges, Topology

_log = get_logger("source")

WATCH_SECONDS: Final = 2.0  # between two looks at the map
ASKED_AT_ONCE: Final = 16  # nodes
WAIT_HINT: Final = "start again when the move is over; redis-cli --cluster check tells, and --cluster fix ends a move that was given up"
MOVED_HINT: Final = (
    "when the move is over, start with on_rules_change full-sync, existing replace and prune prune: keys of slots that moved may be "
    "missing in the target until then"
)


async def read_map(endpoint: Endpoint) -> tuple[Topology, dict[int, str]]:
    """The map of a source cluster, and the slots that its primaries give away or take.

    Args:
        endpoint: of a cluster.

    Returns:
        The map; for each slot on its way, an id of a node that it goes to, or comes from.

    Raises:
        ConfigError: this is no cluster.
        SourceLost: no node tells, or an owner of slots cannot be asked.
        SourceError: one refuses.
    """
    assert endpoint.seeds is not None, "only clusters have a map"
    limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(node: Node) -> object:
        async with limit, open_control(replace(endpoint, host=node.host, port=node.port, seeds=None)) as asked:
            return await asked.call("CLUSTER", "NODES")

    try:
        topology = await endpoint.seeds.read(endpoint.entrance)
        async with TaskGroup() as group:
            tasks = [group.create_task(ask(node), name=f"map {node.address}") for node in topology.nodes]
    except NoCluster as error:
        raise ConfigError(
            f"the source is no cluster: {error}", hint="redis://host:port is the URL of one server"
        ) from None
    except OSError as error:
        raise _unread(error) from None
    except BaseExceptionGroup as group:
        cause = first_cause(group)
        if isinstance(cause, Refused):
            raise refused("CLUSTER NODES", f"-{cause.text}".encode(), secret=cause.login) from None
        if isinstance(cause, OSError):
            raise _unread(cause) from None
        raise cause from None
    marks: dict[int, str] = {}
    for task in tasks:
        marks |= moving(task.result())
    return topology, marks


def _unread(error: OSError) -> SourceLost:
    return SourceLost(f"the source's map cannot be read: {error}", hint="check hosts, ports and TLS")


def refuse_moves(topology: Topology, marks: Mapping[int, str], wanted: Ranges) -> None:
    """Lets a source pass all of whose slots that are wanted are at their places.

    Args:
        topology: its map.
        marks: as `read_map` tells them.
        wanted: slots.

    Raises:
        SlotsMoved: some have no owner, or are on their way.
    """
    missing = [slot for slot in slots_of(wanted) if topology.owner(slot) is None]
    if missing:
        raise SlotsMoved(
            f"slots {spelled(ranges_of(missing))} of the source have no owner: their keys cannot be read",
            hint="redis-cli --cluster fix gives them one; include_slots leaves them out",
        )
    if found := _on_their_way(marks, wanted):
        raise SlotsMoved(found, hint=WAIT_HINT)


def _on_their_way(marks: Mapping[int, str], wanted: Ranges) -> str:
    """What is to be said of slots that are on their way; "" where none is."""
    found = [slot for slot in sorted(marks) if any(first <= slot <= last for first, last in wanted)]
    return f"slots {spelled(ranges_of(found))} of the source are on their way to another node" if found else ""


def owners(topology: Topology, shards: Mapping[str, Ranges]) -> tuple[dict[str, Node], str, bool]:
    """Who has the slots of each link.

    Args:
        topology: the map.
        shards: slots of each link, by its name.

    Returns:
        The node that has all slots of a link, by its name; what has moved, in words, "" for nothing; and whether it is only
        that slots have no owner, which may be what a node says that has just begun.
    """
    table = memoryview(topology.table).cast("H")
    found: dict[str, Node] = {}
    by_node: dict[int, str] = {}
    gaps: list[int] = []
    for name, ranges in shards.items():
        slots = slots_of(ranges)
        numbers = [table[slot] for slot in slots]
        gaps += [slot for slot, number in zip(slots, numbers, strict=True) if number == NOBODY]
        known = sorted(set(numbers) - {NOBODY}, key=numbers.count)
        if not known:
            continue
        most = known[-1]
        if len(known) > 1:
            gone = [slot for slot, number in zip(slots, numbers, strict=True) if number not in {most, NOBODY}]
            return {}, f"slots {spelled(ranges_of(gone))} of the source have moved to another node", False
        if most in by_node:
            where = topology.nodes[most].address
            text = (
                f"the slots of the links {by_node[most]} and {name}, two shards at the start, are both at {where} now"
            )
            return {}, text, False
        by_node[most] = name
        found[name] = topology.nodes[most]
    text = f"slots {spelled(ranges_of(sorted(gaps)))} of the source have no owner any more" if gaps else ""
    return found, text, bool(gaps)


class Assignment:
    """Which node each link of a source cluster reads.

    Args:
        topology: the map.
        slots: of each link, by its name.
        pending: slots that no link has yet.

    Attributes:
        gaps: of all these, those that nobody owns.
    """

    def __init__(self, topology: Topology, slots: Mapping[str, frozenset[int]], pending: Iterable[int] = ()) -> None:
        self._topology = topology
        self._slots = slots
        self._table = memoryview(topology.table).cast("H")
        self._wanted = frozenset(pending).union(*slots.values())
        self.gaps = frozenset(slot for slot in self._wanted if self._table[slot] == NOBODY)

    def nodes(self, known: Mapping[str, Node]) -> dict[str, Node]:
        """The node of each link that has one.

        Args:
            known: those that links had before. One that has slots still is the link's; where it has none any more, a replica may
                have been promoted, or another node may have taken all its slots: that which has most of them, and no link.
        """
        by_name = {node.name: node for node in self._topology.nodes}
        found = {link: by_name[node.name] for link, node in known.items() if node.name in by_name}
        free = {number for number, node in enumerate(self._topology.nodes) if node not in found.values()}
        claims = [
            (count, link, number)
            for link, slots in self._slots.items()
            if link not in found
            for number, count in Counter(self._table[slot] for slot in slots).items()
            if number in free
        ]
        for _, link, number in sorted(claims, reverse=True):
            if link not in found and number in free:
                found[link] = self._topology.nodes[number]
                free.discard(number)
        return found

    def strangers(self, nodes: Mapping[str, Node]) -> list[Node]:
        """Owners of slots that are none of these nodes."""
        names = {node.name for node in nodes.values()}
        owners = {self._table[slot] for slot in self._wanted} - {NOBODY}
        return [
            self._topology.nodes[number] for number in sorted(owners) if self._topology.nodes[number].name not in names
        ]


class ShardWatch:
    """Looks at the map of a source cluster now and then, for all links that read it.

    Args:
        links: of one source.
        seconds: between two looks.
    """

    def __init__(self, links: Sequence[Settings], seconds: float = WATCH_SECONDS) -> None:
        self._endpoint = links[0].source_endpoint()
        self._shards: dict[str, Ranges] = {each.link: tuple(each.slot_ranges()) for each in links}
        self._all = tuple(part for ranges in self._shards.values() for part in ranges)
        self._seconds = seconds
        self._owners: dict[str, Node] = {}
        self._found = asyncio.Event()
        self._text = ""
        self._lock = asyncio.Lock()
        self._looked_at: float | None = None
        self._gaps = False  # the last look found slots without an owner
        self._blind = False  # it found nobody to ask

    async def guard(self, link: str, on_owner: Callable[[Node], None]) -> NoReturn:
        """Watches until it is cancelled, or slots move.

        Args:
            link: on whose behalf.
            on_owner: told when all its slots have another owner.

        Raises:
            SlotsMoved: of any link of the source.
        """
        owner: Node | None = None
        while True:
            async with self._lock:
                now = asyncio.get_running_loop().time()
                if not self._found.is_set() and (self._looked_at is None or now - self._looked_at >= self._seconds):
                    await self._look()
                    self._looked_at = asyncio.get_running_loop().time()
            if self._found.is_set():
                raise SlotsMoved(self._text, hint=MOVED_HINT)
            there = self._owners.get(link, owner)
            if there is not None and owner is not None and there.name != owner.name:
                on_owner(there)
            owner = there
            try:
                async with asyncio.timeout(self._seconds):
                    await self._found.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Once; a map that cannot be read now says nothing, and is told of."""
        try:
            topology, marks = await read_map(self._endpoint)
        except (SourceError, ConfigError) as error:
            if not self._blind:
                _log.warning("the source's map cannot be read: slots that move are not seen", error=str(error.args[0]))
            self._blind = True
            return
        if self._blind:
            _log.info("the source's map can be read again")
            self._blind = False
        self._owners, moved, passes = owners(topology, self._shards)
        if passes and not self._gaps:  # a node that has just begun may not know all: once more
            self._gaps = True
            return
        self._gaps = passes
        self._text = moved or _on_their_way(marks, self._all)
        if self._text:
            self._found.set()
