"""What a node of a source cluster says of itself: its slots, those that come and go, and how far its stream is.

``CLUSTER NODES`` tells it in the line of the node that is asked (cluster_legacy.c:clusterGenNodeDescription), ``CLUSTER
GETSLOTMIGRATIONS`` of Valkey 9 and ``CLUSTER MIGRATION`` of Redis 8.4 the moves that are made in one step (cluster_migrateslots.c,
cluster_asm.c). The offset is asked for behind these: what a node says of a slot is so at an offset that is not above it.

Redis 8.4 counts no keys of a slot that is not the node's, whether they are there or not, and says in its stream when they are
not (``TRIMSLOTS``): as soon as it has lost the slot, or when its writes are no longer paused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portd.errors import first_cause
from portd.groups import TaskGroup
from portd.net.control import Refused, keys_by_database, open_control, parse_info
from portd.net.resp import request
from portd.net.shapes import whole
from portd.net.topology import MOST_PORT, Node, moving, own_name, own_slots, read_written, slots_of
from portd.source.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

MOST_OFFSET: Final = 2**60
ALONE: Final = 8  # words in the line of a node without slots
ENDED: Final = frozenset({"success", "failed", "cancelled", "completed", "canceled"})  # states of a move that is over
AT_ONCE: Final = 2048  # slots that are asked for in one go
_UNKNOWN: Final = ("unknown subcommand", "unknown command", "wrong number of arguments")


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as it says itself.

    Attributes:
        name: its id in the cluster.
        owns: slots.
        takes: slots that it takes over key by key.
        gives: slots that it gives away so.
        jobs: slots of moves in one step, to it, that have not ended. Of one that has failed and begins once more, while it goes on.
        replids: of its history, and the one before.
        offset: replication offset, asked for behind all that.
        primary: it is one.
        idle: other primaries that have no slots, as it knows them.
        trims: it says in its stream when the keys of a slot that was moved in one step are gone.
    """

    name: str
    owns: frozenset[int]
    takes: frozenset[int]
    gives: frozenset[int]
    jobs: frozenset[int]
    replids: frozenset[str]
    offset: int
    primary: bool = True
    idle: tuple[Node, ...] = ()
    trims: bool = False

    def claims(self, *, returning: bool) -> frozenset[int]:
        """Slots of which the last word is this node's.

        Args:
            returning: also those that it gives away: their keys may come back.
        """
        return (self.owns if returning else self.owns - self.gives) | self.takes


async def view(endpoint: Endpoint, node: Node) -> NodeView | None:
    """Asks a node; None where it cannot be asked now.

    Args:
        endpoint: of the cluster.
        node: which one.

    Raises:
        SourceError: it refuses.
    """
    try:
        async with open_control(replace(endpoint, host=node.host, port=node.port, seeds=None)) as asked:
            moves, imports, nodes, info = await asked.ask(  # in this order: a move that ends in between is seen as over
                request("CLUSTER", "GETSLOTMIGRATIONS"), request("CLUSTER", "MIGRATION", "STATUS", "ALL"),
                request("CLUSTER", "NODES"), request("INFO", "replication"),
            )  # fmt: skip
    except Refused as refusal:
        raise refused("CLUSTER NODES", f"-{refusal.text}".encode(), secret=refusal.login) from None
    except OSError:
        return None
    if not isinstance(nodes, bytes) or not isinstance(info, bytes):
        _require(nodes, "CLUSTER NODES")
        _require(info, "INFO replication")
        return None
    told = parse_info(info)
    offset = whole(told.get("master_repl_offset", ""), MOST_OFFSET)
    name = own_name(nodes)
    if offset is None or not name:
        return None
    on_their_way = _marks(nodes)
    return NodeView(
        name,
        frozenset(slots_of(own_slots(nodes))),
        frozenset(slot for slot, comes in on_their_way.items() if comes),
        frozenset(slot for slot, comes in on_their_way.items() if not comes),
        _jobs(moves) | _imports(imports),
        frozenset(filter(None, (told.get("master_replid"), told.get("master_replid2")))),
        offset,
        told.get("role") == "master",
        _idle(nodes.decode("utf-8", "replace"), endpoint),
        isinstance(imports, list),
    )


async def emptied(endpoint: Endpoint, node: Node, slots: Sequence[int], *, trims: bool = False) -> int | None:
    """The offset of a node that has no keys of some slots any more; None where it has, or cannot be asked now.

    Args:
        endpoint: of the cluster.
        node: which one.
        slots: none of which is its, as it was asked before.
        trims: it removes their keys in one go: see `NodeView.trims`.

    Raises:
        SourceError: it refuses.
    """
    try:
        async with open_control(replace(endpoint, host=node.host, port=node.port, seeds=None)) as asked:
            if not await _are_empty(asked, slots):
                return None
            if trims and await _hides_keys(asked):
                return None
            (info,) = await asked.ask(request("INFO", "replication"))
    except Refused as refusal:
        raise refused("CLUSTER COUNTKEYSINSLOT", f"-{refusal.text}".encode(), secret=refusal.login) from None
    except OSError:
        return None
    _require(info, "INFO replication")
    return whole(parse_info(info).get("master_repl_offset", ""), MOST_OFFSET)


async def _hides_keys(asked: Control) -> bool:
    """A node has keys that it does not count: those of slots that come in one step, or that it has not removed yet."""
    size, keyspace = await asked.ask(request("DBSIZE"), request("INFO", "keyspace"))
    if not isinstance(size, int) or not isinstance(keyspace, bytes):
        _require(size, "DBSIZE")
        _require(keyspace, "INFO keyspace")
    return bool(sum(keys_by_database(parse_info(keyspace)).values()) != size)


async def _are_empty(asked: Control, slots: Sequence[int]) -> bool:
    for begin in range(0, len(slots), AT_ONCE):
        part = slots[begin : begin + AT_ONCE]
        for answer in await asked.ask(*(request("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in part)):
            if answer != 0:
                if not isinstance(answer, int):
                    _require(answer, "CLUSTER COUNTKEYSINSLOT")
                return False
    return True


def _require(answer: object, command: str) -> None:
    """Raises: SourceError: an answer is an error."""
    if isinstance(answer, Exception):
        raise refused(command, f"-{answer}".encode())


def _idle(text: str, endpoint: Endpoint) -> tuple[Node, ...]:
    """Primaries without slots, from ``CLUSTER NODES``. A replica that is new looks like one for some seconds."""
    found, mapped = [], dict(endpoint.seeds.mapped) if endpoint.seeds is not None else {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != ALONE or set(words[2].split(",")) != {"master"}:
            continue
        host, _, port = words[1].partition("@")[0].rpartition(":")
        number = whole(port, MOST_PORT)
        if host and number:
            host, number = mapped.get((host, number), (host, number))
            found.append(Node(words[0], host, number, ()))
    return tuple(found)


def _marks(nodes: bytes) -> dict[int, bool]:
    """Slots on their way, and whether they come."""
    text = nodes.decode("utf-8", "replace")
    return {slot: f"[{slot}-<-" in text for slot in moving(nodes)}


def _jobs(answer: object) -> frozenset[int]:
    """Slots that come in one step, from ``CLUSTER GETSLOTMIGRATIONS``; none where the server has no such moves.

    Raises:
        SourceError: it does not tell.
    """
    if isinstance(answer, Exception):
        if any(each in str(answer).lower() for each in _UNKNOWN):
            return frozenset()
        _require(answer, "CLUSTER GETSLOTMIGRATIONS")
    return _coming(answer, "slot_ranges")


def _imports(answer: object) -> frozenset[int]:
    """The same, from ``CLUSTER MIGRATION STATUS ALL``."""
    if isinstance(answer, Exception):
        text = str(answer).lower()
        if (
            not any(each in text for each in _UNKNOWN) and "cluster|migration" in text
        ):  # older servers refuse it, unknown
            _require(answer, "CLUSTER MIGRATION")
    return _coming(answer, "slots")


def _coming(answer: object, ranges: str) -> frozenset[int]:
    """Slots of the moves to a node that have not ended, which names them by that word."""
    found: set[int] = set()
    for job in answer if isinstance(answer, list) else ():
        words = [each.decode("utf-8", "replace") if isinstance(each, bytes) else "" for each in job or ()]
        told = dict(zip(words[::2], words[1::2], strict=False))
        if told.get("operation", "").upper() == "IMPORT" and told.get("state") not in ENDED:
            found.update(slots_of(read_written(told.get(ranges, "").replace(",", " ").split())))
    return frozenset(found)


async def views(endpoint: Endpoint, nodes: Sequence[Node]) -> list[NodeView | None]:
    """Of several nodes, all at once.

    Raises:
        SourceError: one refuses.
    """
    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(view(endpoint, node), name=f"view {node.address}") for node in nodes]
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [task.result() for task in tasks]
