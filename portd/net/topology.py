"""Who has which slots of a cluster: the map that ``CLUSTER SLOTS`` tells, from any node that answers.

Every version and every service has that command (cluster.c:clusterReplyMultiBulkSlots). What it leaves out, slots on their
way to another node, stands in ``CLUSTER NODES``, in the line of the node that is asked alone (cluster.c:clusterGenNodeDescription).
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.kernel.answerbound import AnswerBound
from portd.kernel.slots import SLOTS
from portd.net.resp import request
from portd.net.shapes import whole

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Address = tuple[str, int]
Ranges = tuple[tuple[int, int], ...]  # of slots, ends included

ALL_SLOTS: Final[Ranges] = ((0, SLOTS - 1),)
NONE: Final = "none"  # of slots, in a setting
NOBODY: Final = 0xFFFF  # stands in the table for a slot without an owner
MOST_NODES: Final = 4096  # entries of an answer that are believed
MOST_PORT: Final = 65535
MOST_EPOCH: Final = (1 << 64) - 1
MOST_OBJECTS: Final = 100_000  # of an entry: a few bytes make an object of many
MOST_BYTES: Final = 16 << 20  # of an answer: every slot on its own, with ten nodes each
READ_BYTES: Final = 64 * 1024
KEPT_MAPS: Final = 4
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
    if not isinstance(answer, list):
        raise ValueError("it answers CLUSTER SLOTS with something else than a list")  # noqa: TRY004 - it came from outside
    reading = _Reading(asked, addresses or {})
    for entry in answer:
        reading.take(entry)
    return reading.topology()


@dataclass(slots=True)
class _Reading:
    """What the entries of ``CLUSTER SLOTS`` say together; see `parse_slots`."""

    asked: str
    addresses: Mapping[Address, Address]
    slots: dict[tuple[str, str, int], list[tuple[int, int]]] = field(default_factory=dict)
    replicas: dict[str, dict[Address, None]] = field(default_factory=dict)  # by their primary's id

    def take(self, entry: object) -> None:
        if not isinstance(entry, list) or len(entry) < 3:
            raise ValueError("an entry of CLUSTER SLOTS is no range with a node")
        first, last = entry[0], entry[1]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < SLOTS):
            raise ValueError("an entry of CLUSTER SLOTS has no range of slots")
        name, host, port = _node(entry[2], self.asked)
        self.slots.setdefault((name, *self.addresses.get((host, port), (host, port))), []).append((first, last))
        if len(self.slots) > MOST_NODES:
            raise ValueError(f"CLUSTER SLOTS tells of more than {MOST_NODES} nodes")
        for each in entry[3:]:
            _, host, port = _node(each, self.asked)
            self.replicas.setdefault(name, {})[self.addresses.get((host, port), (host, port))] = None

    def topology(self) -> Topology:
        return Topology.of(
            Node(name, host, port, _joined(found), tuple(self.replicas.get(name, ())))
            for (name, host, port), found in self.slots.items()
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
    for word in _own_line(answer)[8:]:
        slot, _, other = word.strip("[]").partition("-")
        number = whole(slot, SLOTS - 1)
        if word.startswith("[") and number is not None and other[:2] in {">-", "<-"}:
            found[number] = other[2:]
    return found


def followed(answer: object) -> str:
    """Id of the primary that the node which was asked follows, from its answer to ``CLUSTER NODES``; "" where it follows none."""
    return "".join(_own_line(answer)[3:4]).strip("-")


def own_name(answer: object) -> str:
    """Id of the node which was asked, from its answer to ``CLUSTER NODES``; "" where it tells none."""
    return "".join(_own_line(answer)[:1])


def own_epoch(answer: object) -> int:
    """Configuration epoch of the node which was asked, from its answer to ``CLUSTER NODES``; -1 where it tells none."""
    number = whole("".join(_own_line(answer)[6:7]), MOST_EPOCH)
    return -1 if number is None else number


def own_slots(answer: object) -> Ranges:
    """Slots that the node which was asked has, from its answer to ``CLUSTER NODES``."""
    return read_written(_own_line(answer)[8:])  # one on its way is in brackets


def _own_line(answer: object) -> list[str]:
    """Words of what ``CLUSTER NODES`` says of the node which was asked (cluster.c:clusterGenNodeDescription); none where it says nothing."""
    lines = (line.split() for line in _text(answer).splitlines())
    return next((words for words in lines if len(words) > 2 and "myself" in words[2].split(",")), [])


def slots_of(ranges: Ranges) -> list[int]:
    """Every slot of some ranges, ascending."""
    return [slot for first, last in sorted(ranges) for slot in range(first, last + 1)]


def common(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> Ranges:
    """What two sets of ranges have in common, ascending; the ranges of a set do not overlap."""
    left, right, found = sorted(one), sorted(other), []
    i = j = 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first <= last:
            found.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


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
                    found = await _understood(answer, host, self.mapped)
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


class _Entries:
    """The entries of an answer to ``CLUSTER SLOTS``, one by one as it comes, so that not all of them are held as objects.

    A map may have 16,384 of them, each with all nodes of its shard: where slots were dealt out one by one.
    """

    def __init__(self) -> None:
        self._head = b""  # of the list, as long as it is not whole
        self._left: int | None = None
        self._bound = AnswerBound(MOST_OBJECTS)
        self._reader = hiredis.Reader()

    @property
    def ended(self) -> bool:
        """All entries have come."""
        return self._left == 0

    def feed(self, data: bytes) -> Iterator[object]:
        """Raises `ValueError`: it is an error, or something else, or an entry is too long."""
        if self._left is None:
            self._head += data
            line, end, data = self._head.partition(b"\r\n")
            if not end and len(line) < READ_BYTES:
                return
            if line[:1] == b"-":
                raise ValueError(line[1:].decode("utf-8", "replace"))
            count = whole(line[1:]) if line[:1] == b"*" else None
            if count is None:
                raise ValueError("it answers CLUSTER SLOTS with something else than a list")
            if count > SLOTS:
                raise ValueError("its answer is too long")
            self._head, self._left = b"", count
        if not self._bound.feed(data):
            raise ValueError("its answer is too long")
        self._reader.feed(data)
        while self._left and (entry := self._reader.gets()) is not False:
            self._left -= 1
            self._bound.forget()
            yield entry


_known: dict[tuple[bytes, str, tuple[tuple[Address, Address], ...]], Topology] = {}  # the last ones, by digest


async def _understood(answer: bytes, asked: str, mapped: tuple[tuple[Address, Address], ...]) -> Topology:
    """Reads an answer as `_ask` brings it. Links look at the map often, and it hardly ever changes."""
    key = hashlib.blake2b(answer).digest(), asked, mapped
    if key not in _known:
        reading, entries = _Reading(asked, dict(mapped)), _Entries()
        for begin in range(0, len(answer), READ_BYTES):
            for entry in entries.feed(answer[begin : begin + READ_BYTES]):
                reading.take(entry)
            await asyncio.sleep(0)  # others have their turn in between
        found = reading.topology()
        while len(_known) >= KEPT_MAPS:
            del _known[next(iter(_known))]
        _known[key] = found
    return _known[key]


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
        if entrance.login is not None:
            writer.write(entrance.login)
            said = (await reader.readline()).strip()  # StreamReader bounds it
            if not said.startswith(b"+"):
                raise ValueError(said[1:].decode("utf-8", "replace") or "it closed the connection")
        writer.write(request("CLUSTER", "SLOTS"))
        entries, came = _Entries(), bytearray()
        while not entries.ended:
            data = await reader.read(READ_BYTES)
            if not data:
                raise ConnectionResetError("it closed the connection")
            came += data
            if len(came) > MOST_BYTES:
                raise ValueError("its answer is too long")
            for _ in entries.feed(data):
                pass
        return bytes(came)
    finally:
        writer.transport.abort()
