"""Who has which slots of a cluster: the map that ``CLUSTER SLOTS`` tells, from any node that answers.

Every version and every service has that command (cluster.c:clusterReplyMultiBulkSlots). What it leaves out, slots on their
way to another node, stands in ``CLUSTER NODES``, in the line of the node that is asked alone (cluster.c:clusterGenNodeDescription).
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.kernel.answerbound import AnswerBound
from portd.kernel.slots import SLOTS
from portd.net.resp import request
from portd.net.shapes import whole

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence

Address = tuple[str, int]
Ranges = tuple[tuple[int, int], ...]  # of slots, ends included

ALL_SLOTS: Final[Ranges] = ((0, SLOTS - 1),)
NONE: Final = "none"  # of slots, in a setting
NOBODY: Final = 0xFFFF  # stands in the table for a slot without an owner
MOST_NODES: Final = 4096  # entries of an answer that are believed
MOST_PORT: Final = 65535
MOST_OBJECTS: Final = 100_000  # of an answer: a few bytes make an object of many
MOST_BYTES: Final = 8 << 20  # likewise
READ_BYTES: Final = 64 * 1024
_DISABLED: Final = "cluster support disabled"
_UNKNOWN_HOSTS: Final = frozenset({"", "?"})  # the host is the one that was asked (cluster.c:addNodeToNodeReply)


class NoMap(ConnectionRefusedError):
    """No node of the cluster tells who has its slots; an `OSError`, as a refused connection is."""


class NoCluster(NoMap):
    """What was asked is no node of a cluster."""


@dataclass(frozen=True, slots=True)
class Node:
    """A primary.

    Attributes:
        name: its id in the cluster.
        host: where it is reached.
        port: likewise.
        slots: ranges that it has, ascending, ends included.
        replicas: addresses of those that follow it.
    """

    name: str
    host: str
    port: int
    slots: Ranges
    replicas: tuple[Address, ...] = field(default=(), compare=False)

    @property
    def address(self) -> str:
        """For people."""
        return shown(self.host, self.port)

    @property
    def first(self) -> int:
        """The lowest slot that it has."""
        return self.slots[0][0]


@dataclass(frozen=True, slots=True)
class Topology:
    """A map of a cluster.

    Attributes:
        nodes: primaries that have slots, by their lowest one.
        table: number of the node that has each slot, as native u16; `NOBODY` for none.
    """

    nodes: tuple[Node, ...]
    table: bytes = field(repr=False)

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Topology:
        """Of primaries with their slots."""
        found = tuple(sorted((node for node in nodes if node.slots), key=lambda node: node.first))
        table = array("H", [NOBODY]) * SLOTS
        for number, node in enumerate(found):
            for first, last in node.slots:
                table[first : last + 1] = array("H", [number]) * (last + 1 - first)
        return cls(found, table.tobytes())

    @property
    def others(self) -> tuple[Address, ...]:
        """Addresses of replicas."""
        return tuple(dict.fromkeys(each for node in self.nodes for each in node.replicas))

    def owner(self, slot: int) -> Node | None:
        """Who has a slot; None for nobody."""
        number = memoryview(self.table).cast("H")[slot]
        return None if number == NOBODY else self.nodes[number]

    def gaps(self, slots: Ranges = ALL_SLOTS) -> list[tuple[int, int]]:
        """Of some slots, the ranges that nobody has."""
        table = memoryview(self.table).cast("H")
        return ranges_of(slot for slot in slots_of(slots) if table[slot] == NOBODY)

    def within(self, slots: Ranges) -> Topology:
        """The map of some slots: nodes that have none of them are left out, and so are slots of the others."""
        return Topology.of(replace(node, slots=common(node.slots, slots)) for node in self.nodes)


def parse_slots(answer: object, asked: str, addresses: Mapping[Address, Address] | None = None) -> Topology:
    """Reads the answer to ``CLUSTER SLOTS``.

    Args:
        answer: as it came.
        asked: host of the node that said it: a node whose host is not known is there, too.
        addresses: what to use in place of addresses that the cluster announces.

    Raises:
        ValueError: it is no such answer.
    """
    addresses = addresses or {}
    slots: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    replicas: dict[str, dict[Address, None]] = {}  # by their primary's id
    if not isinstance(answer, list):
        raise ValueError("it answers CLUSTER SLOTS with something else than a list")  # noqa: TRY004 - it came from outside
    for entry in answer:
        if not isinstance(entry, list) or len(entry) < 3:
            raise ValueError("an entry of CLUSTER SLOTS is no range with a node")
        first, last = entry[0], entry[1]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < SLOTS):
            raise ValueError("an entry of CLUSTER SLOTS has no range of slots")
        name, host, port = _node(entry[2], asked)
        slots.setdefault((name, *addresses.get((host, port), (host, port))), []).append((first, last))
        for each in entry[3:]:
            _, host, port = _node(each, asked)
            replicas.setdefault(name, {})[addresses.get((host, port), (host, port))] = None
    if len(slots) > MOST_NODES:
        raise ValueError(f"CLUSTER SLOTS tells of more than {MOST_NODES} nodes")
    return Topology.of(
        Node(name, host, port, _joined(found), tuple(replicas.get(name, ())))
        for (name, host, port), found in slots.items()
    )


def _node(entry: Any, asked: str) -> tuple[str, str, int]:
    """Id, host and port of a node."""
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[1], int) or not 0 < entry[1] <= MOST_PORT:
        raise ValueError("a node of CLUSTER SLOTS has no address")
    host = _text(entry[0])
    if host in _UNKNOWN_HOSTS:
        host = _told_beside(entry[3] if len(entry) > 3 else None) or asked
    name = _text(entry[2]) if len(entry) > 2 else ""
    return name or shown(host, entry[1]), host, entry[1]


def _told_beside(metadata: object) -> str:
    """The ``ip`` of a node whose host is not told: where a hostname is preferred and it has none (since 7.0)."""
    words = [_text(each) for each in metadata] if isinstance(metadata, list) else []
    return next((value for name, value in zip(words[::2], words[1::2], strict=False) if name == "ip"), "")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _joined(found: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges in their order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if joined and joined[-1][1] + 1 >= first:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)


def moving(answer: object) -> dict[int, str]:
    """Slots that the node which was asked gives away, or takes, from its answer to ``CLUSTER NODES``.

    Returns:
        The other node's id, by slot.
    """
    found: dict[int, str] = {}
    for line in _text(answer).splitlines():
        words = line.split()
        if len(words) > 2 and "myself" in words[2].split(","):
            for word in words[8:]:
                slot, _, other = word.strip("[]").partition("-")
                number = whole(slot, SLOTS - 1)
                if word.startswith("[") and number is not None and other[:2] in {">-", "<-"}:
                    found[number] = other[2:]
    return found


def followed(answer: object) -> str:
    """Id of the primary that the node which was asked follows, from its answer to ``CLUSTER NODES``; "" where it follows none."""
    for line in _text(answer).splitlines():
        words = line.split()
        if len(words) > 3 and "myself" in words[2].split(","):
            return words[3].strip("-")
    return ""


def slots_of(ranges: Ranges) -> list[int]:
    """Every slot of some ranges, ascending."""
    return [slot for first, last in sorted(ranges) for slot in range(first, last + 1)]


def common(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> Ranges:
    """What two sets of ranges have in common, ascending."""
    other = list(other)
    both = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return tuple(sorted({(first, last) for first, last in both if first <= last}))


def ranges_of(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending slots as ranges."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and found[-1][1] + 1 == slot:
            found[-1] = found[-1][0], slot
        else:
            found.append((slot, slot))
    return found


def written(ranges: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Ranges as a setting has them, which says so where there are none."""
    return tuple(str(first) if first == last else f"{first}-{last}" for first, last in ranges) or (NONE,)


def read_written(words: Iterable[str]) -> Ranges:
    """Ranges from `written`; words that are none are passed over."""
    found: list[tuple[int, int]] = []
    for word in words:
        first, dash, last = word.partition("-")
        begin, end = whole(first, SLOTS - 1), whole(last if dash else first, SLOTS - 1)
        if begin is not None and end is not None and begin <= end:
            found.append((begin, end))
    return tuple(found)


def spelled(ranges: Sequence[tuple[int, int]], most: int = 5) -> str:
    """Ranges for people, the first ones."""
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:most]]
    return ", ".join(words) + (f" and {len(ranges) - most} more ranges" if len(ranges) > most else "")


def shown(host: str, port: int) -> str:
    """An address for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Seeds:
    """Some nodes of a cluster, from which the others are found.

    Attributes:
        addresses: (host, port) of each.
        mapped: pairs: what the cluster announces, and what is used instead.
        known: addresses that the newest map had, first the one that told it.
    """

    addresses: tuple[Address, ...]
    mapped: tuple[tuple[Address, Address], ...] = ()
    known: list[Address] = field(default_factory=list, compare=False, repr=False)

    async def read(self, entrance: Entrance) -> Topology:
        """The map, from the first node that tells it.

        Args:
            entrance: how to get in.

        Raises:
            NoMap: none tells; the message says which answered what.
        """
        said: list[str] = []
        outside = True
        places = list(dict.fromkeys((*self.known, *self.addresses)))
        for host, port in places:
            try:
                async with asyncio.timeout(max(1.0, entrance.seconds / len(places))):
                    answer = await _ask(host, port, entrance)
                found = _understood(answer, host, self.mapped)
            except (OSError, EOFError, ValueError, hiredis.HiredisError) as error:  # TimeoutError is one
                outside &= _DISABLED in str(error)
                said.append(f"{shown(host, port)}: {str(error)[:100] or type(error).__name__}")
                continue
            if found.nodes:
                known = [*((each.host, each.port) for each in found.nodes), *found.others]
                self.known[:] = sorted(known, key=lambda each: each != (host, port))  # who answers is asked first again
                return found
            outside = False
            said.append(f"{shown(host, port)}: knows of no slots")
        raise (NoCluster if outside else NoMap)(f"no node tells who has the cluster's slots ({'; '.join(said)})")

    async def owner(self, entrance: Entrance, slot: int) -> Address:
        """Where the primary is that has a slot.

        Raises:
            NoMap: nobody tells, or nobody has it.
        """
        node = (await self.read(entrance)).owner(slot)
        if node is None:
            raise NoMap(f"slot {slot} of the cluster has no owner")
        return node.host, node.port


@dataclass(frozen=True, slots=True)
class Entrance:
    """How to get into a node.

    Attributes:
        seconds: for all nodes that are asked; one that is silent takes its share only.
        login: the AUTH command; None when there are no credentials.
        context: makes a TLS context; None is plain.
        server_name: to find in the certificate; None is the host.
    """

    seconds: float
    login: bytes | None = field(default=None, repr=False)
    context: Callable[[], ssl.SSLContext] | None = None
    server_name: str | None = None


@lru_cache(maxsize=4)
def _understood(answer: bytes, asked: str, mapped: tuple[tuple[Address, Address], ...]) -> Topology:
    """Reads an answer as `_ask` brings it. Links look at the map often, and it hardly ever changes."""
    reader = hiredis.Reader()
    reader.feed(answer)
    return parse_slots(reader.gets(), asked, dict(mapped))


async def _ask(host: str, port: int, entrance: Entrance) -> bytes:
    """One node's answer to ``CLUSTER SLOTS``, as it came.

    Raises:
        OSError: it cannot be reached.
        ValueError: it refuses, or answers with something else.
    """
    context = entrance.context() if entrance.context is not None else None
    name = (entrance.server_name or host) if context else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        questions = [*([entrance.login] if entrance.login is not None else []), request("CLUSTER", "SLOTS")]
        writer.write(b"".join(questions))
        count, bound, parser, came = 0, AnswerBound(MOST_OBJECTS), hiredis.Reader(), bytearray()
        while count < len(questions):
            data = await reader.read(READ_BYTES)
            came += data
            if not data:
                raise ConnectionResetError("it closed the connection")
            if len(came) > MOST_BYTES or not bound.feed(data):
                raise ValueError("its answer is too long")
            parser.feed(data)
            while (answer := parser.gets()) is not False:
                if isinstance(answer, hiredis.ReplyError):
                    raise ValueError(str(answer))  # noqa: TRY004 - it came from outside
                count += 1
        return bytes(came) if entrance.login is None else bytes(came).partition(b"\r\n")[2]  # that to AUTH is a line
    finally:
        writer.transport.abort()
