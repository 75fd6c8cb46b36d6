"""The nodes of a target cluster: who they are, what all of them can do, and who may write to them.

The link's hash, lease and epoch lie in one slot, that of the link's name (*home*). Every other primary has an epoch of its
own, for what is sent to it outside of transactions: see docs/design/0004. Whoever has taken the link writes it, and ends
the connections of whoever had it before.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portd.config.choices import Existing
from portd.errors import ConfigError, TargetBusy, TargetLost, TargetNotEmpty, TargetRefused, first_cause
from portd.groups import TaskGroup
from portd.kernel.slotgroups import record_keys
from portd.kernel.slots import slot_tag
from portd.log import get_logger
from portd.model import ConnectionState
from portd.net.control import Refused, open_control
from portd.net.identity import require_process
from portd.net.replies import error_of
from portd.net.resp import request
from portd.net.topology import Node, Topology, moving, spelled
from portd.target.capabilities import EVICTING_COMMANDS
from portd.target.cluster.records import BARRIER_SUFFIX, COPIED, portions, write_records
from portd.target.cluster.settled import MAP, refuse_moves
from portd.target.clusternodes import ClusterNode, ClusterTarget
from portd.target.connection import connect, set_up, text_of
from portd.target.control import control, unmapped
from portd.target.kept.checkpoint import IMAGES_SUFFIX, IMPORTS_SUFFIX, LEASE_SUFFIX, SCAN_COUNT, read_checkpoint
from portd.target.kept.contents import keys_there
from portd.target.kept.epoch import EPOCH_SUFFIX, check
from portd.target.probe import probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.target.capabilities import Capabilities
    from portd.target.connection import Connection
    from portd.target.destination import Destination
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.kept.epoch import Epoch
    from portd.target.kept.lease import Lease

_log = get_logger("target")

NodeT = TypeVar("NodeT")
ResultT = TypeVar("ResultT")
ErrorT = TypeVar("ErrorT", bound=Exception)
CLUSTER_HINT: Final = "portd tries again until every slot has an owner and none is on its way"


async def on_all(
    what: str, nodes: Iterable[NodeT], work: Callable[[NodeT], Coroutine[None, None, ResultT]]
) -> list[ResultT]:
    """Does something on all nodes at once; what it returned, in their order.

    Args:
        what: name of the tasks.
        nodes: on which.
        work: what is done.
    """
    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(work(node), name=f"{what} {number}") for number, node in enumerate(nodes)]
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [task.result() for task in tasks]


async def on_some(
    what: str,
    nodes: Sequence[NodeT],
    work: Callable[[NodeT], Coroutine[None, None, ResultT]],
    passes: type[ErrorT] | tuple[type[ErrorT], ...],
    patience: float | None,
) -> list[ResultT | ErrorT | TimeoutError]:
    """Does something on all nodes at once; what it returned or raised, in their order.

    Args:
        what: name of the tasks.
        nodes: on which.
        work: what is done.
        passes: errors that are returned; others are raised.
        patience: seconds that others are waited for when it is done on one; None: all are waited for.
    """
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(work(node), name=f"{what} {number}") for number, node in enumerate(nodes)]
    pending, until = set(tasks), None
    try:
        while pending:
            left = max(0.0, until - loop.time()) if until is not None else None
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                error = task.exception()
                if error is None and patience is not None:
                    until = until or loop.time() + patience
                elif error is not None and not isinstance(error, passes):
                    raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [_outcome(task) for task in tasks]


def _outcome(task: asyncio.Task[ResultT]) -> ResultT | Any:
    """What a task returned or raised."""
    if task.cancelled():
        return TimeoutError("it does not answer")
    return task.exception() or task.result()


def at(endpoint: Endpoint, node: Node) -> Endpoint:
    """Where a node is, and how to get in."""
    return replace(endpoint, host=node.host, port=node.port, seeds=None)


async def read_map(endpoint: Endpoint, slots: Ranges, patience: float | None = None) -> Topology:
    """The map of some slots, if every one has an owner and none is on its way; the same of the link's home.

    Args:
        endpoint: the home.
        slots: that the link writes to: nodes that have none of them are left out.
        patience: seconds that others are waited for when one node has told which slots are on their way; those that are
            away need not tell. None: all have to.

    Raises:
        ConfigError: this is no cluster.
        TargetLost: no node tells.
        TargetBusy: slots have no owner, or are on their way.
    """
    seeds = endpoint.seeds
    assert seeds is not None, "only clusters have a map"
    wanted = (*slots, (endpoint.slot, endpoint.slot))
    try:
        told = await seeds.read(endpoint.entrance)
        if gaps := told.gaps(wanted):
            raise TargetBusy(f"slots {spelled(gaps)} of the target have no owner", hint=CLUSTER_HINT, code=MAP)
        question = request("CLUSTER", "NODES")
        involved = told.within(wanted).nodes
        passes = () if patience is None else (OSError, Refused)
        answers = await on_some("map", involved, lambda node: _ask(endpoint, node, question), passes, patience)
    except Refused as refusal:
        raise error_of(refusal.text, "does not tell its map", login=refusal.login) from None
    except OSError as error:
        raise unmapped(error) from None
    on_their_way: dict[int, str] = {}
    for node, answer in zip(involved, answers, strict=True):
        if isinstance(answer, OSError | Refused):
            continue
        if text := _error(answer):
            raise error_of(text, "does not tell which slots are on their way", who=f"the target {node.address}")
        on_their_way |= moving(answer)
    refuse_moves(on_their_way, wanted)
    return told.within(slots)


async def _ask(endpoint: Endpoint, node: Node, question: bytes) -> object:
    async with open_control(at(endpoint, node)) as asked:
        (answer,) = await asked.ask(question)
    return answer


def _error(answer: object) -> str:
    return "" if isinstance(answer, bytes) else str(answer) or "no answer"


async def survey(endpoint: Endpoint, slots: Ranges, probing: asyncio.Semaphore) -> ClusterTarget:
    """Looks at a cluster and makes sure that a sync into it can work.

    Args:
        endpoint: the home of the link.
        slots: that the link writes to.
        probing: held while a node is asked what it can do.

    Raises:
        ConfigError: it is none, or its nodes differ too much.
        TargetRefused: our user may not do on every node what a sync does.
        TargetError: a node cannot be asked, or slots have no owner.
    """
    topology = await read_map(endpoint, slots)
    places = [replace(endpoint, host=node.host, port=node.port, slot=node.first) for node in topology.nodes]

    async def probed(place: Endpoint) -> Capabilities:
        async with probing:
            return await probe(place)

    *found, home = await on_all("probe", [*places, endpoint], probed)
    for where, each in zip(
        (*(node.address for node in topology.nodes), "of the link's name"), (*found, home), strict=True
    ):
        if not each.evicts:
            raise TargetRefused(
                f"the target {where} does not let us end connections, and in a cluster nothing else keeps late writes away",
                hint=f"allow {' '.join(f'+{name}' for name in EVICTING_COMMANDS)} to portd's user",
            )
    nodes = tuple(
        ClusterNode(number, place, each.run_id, node.address, node.first, node.slots)
        for number, (node, place, each) in enumerate(zip(topology.nodes, places, found, strict=True))
    )
    return ClusterTarget(endpoint, slots, topology, nodes, _shared(home, found))


def _shared(home: Capabilities, all_nodes: list[Capabilities]) -> Capabilities:
    """What every node can do, told of the one at home."""
    if len({each.family for each in all_nodes}) > 1:
        raise ConfigError(
            "the target's nodes are of Valkey and of Redis", hint="finish the upgrade of the cluster first"
        )
    oldest = min(all_nodes, key=lambda each: each.version)
    commands = frozenset.intersection(*(each.commands for each in all_nodes))
    bounded = [each for each in all_nodes if each.maxmemory > 0]
    tightest = min(bounded, key=lambda each: each.maxmemory) if bounded else home
    return replace(
        oldest,
        run_id=home.run_id,
        commands=commands,
        forbidden=frozenset.union(*(each.forbidden for each in all_nodes)),
        modules=frozenset.intersection(*(each.modules for each in all_nodes)),
        rdb_version=min(each.rdb_version for each in all_nodes),
        footer=min(each.footer for each in all_nodes),
        maxmemory=tightest.maxmemory,
        maxmemory_policy=tightest.maxmemory_policy,
        proto_max_bulk_bytes=min(each.proto_max_bulk_bytes for each in all_nodes),
        keys={0: sum(sum(each.keys.values()) for each in all_nodes)},
        used_memory=sum(each.used_memory for each in all_nodes),
        databases=1,
    )


# ------------------------------------------------------------------------------------------------ what is there already


async def guard_nodes(cluster: ClusterTarget, settings: Settings, choice: Choice, source_run_id: str) -> None:
    """Lets a cluster pass that holds nothing but what is named like ours, or has our checkpoint. Changes nothing.

    Args:
        cluster: the target.
        settings: of the link.
        choice: which keys are copied: where there are rules, others are no concern of the link.
        source_run_id: the source's process; "" when it does not tell.

    Raises:
        ConfigError: the source is one of its nodes.
        TargetNotEmpty: it holds something else.
    """
    if source_run_id and any(node.run_id == source_run_id for node in cluster.nodes):
        raise ConfigError("the source is a node of the target cluster", hint="check --source and --target")
    if settings.existing is not Existing.REFUSE:
        return
    if await read_checkpoint(cluster.endpoint, settings.checkpoint_name()) is not None:
        return
    if held := await foreign_keys(cluster.endpoint, cluster.topology, settings, choice):
        told = ", ".join(f"{count} keys on {address}" for address, count in held.items())
        raise TargetNotEmpty(
            f"the target {cluster.endpoint.display} is not empty ({told}) and has no checkpoint of this link",
            hint="if source and target are the right way round, choose --existing replace, skip or flush",
        )


async def foreign_keys(endpoint: Endpoint, topology: Topology, settings: Settings, choice: Choice) -> dict[str, int]:
    """Keys of each node that are not named like ours, by address; nodes that have none are left out.

    Where there are rules, only what they cover counts, and every name is looked at. Else records of other links are counted
    among them where there are others.

    Raises:
        TargetError: a node cannot be asked.
    """

    async def count(node: Node) -> int:
        async with control(at(endpoint, node), "looking for data in the target") as client:
            if choice:
                return sum((await keys_there(client, settings.checkpoint_key, "", choice)).values())
            total = int(await client.call("DBSIZE"))
            if not total or not await _holds_others(client, settings.checkpoint_key.encode()):
                return 0
            return max(1, total - await _count_ours(client, settings, node))

    counts = await on_all("count", topology.nodes, count)
    return {node.address: found for node, found in zip(topology.nodes, counts, strict=True) if found}


async def keys_of_cluster(settings: Settings, choice: Choice) -> int:
    """Keys of all nodes that are not ours; see `foreign_keys`. Raises what `read_map` does, too."""
    endpoint = settings.target_endpoint()
    return sum((await foreign_keys(endpoint, await read_map(endpoint, choice.slots), settings, choice)).values())


async def _holds_others(client: Control, prefix: bytes) -> bool:
    """Whether a node holds a key that does not begin with *prefix*."""
    cursor = b"0"
    while True:
        cursor, names = await client.call("SCAN", cursor, "COUNT", SCAN_COUNT)
        if any(not name.startswith(prefix) for name in names):
            return True
        if cursor == b"0":
            return False


async def _count_ours(client: Control, settings: Settings, node: Node) -> int:
    """Keys of this link on a node; one that lies elsewhere is an error, and not counted."""
    found, records, key = 0, settings.records_prefix(), settings.checkpoint_name()
    here = f"{records}{{{slot_tag(node.first)}}}"
    beside = [key, *(key + suffix for suffix in (LEASE_SUFFIX, EPOCH_SUFFIX, BARRIER_SUFFIX))]
    beside += [here + EPOCH_SUFFIX, here + BARRIER_SUFFIX]
    beside += [settings.checkpoint_key + suffix for suffix in (IMPORTS_SUFFIX, IMAGES_SUFFIX)]
    names: list[list[str | bytes]] = [list(beside)]
    names += [list(record_keys(records.encode(), first, last)) for first, last in portions(node.slots)]
    for each in names:
        answers = await client.ask(*(request("EXISTS", name) for name in each))
        found += sum(answer == 1 for answer in answers)
    return found


# ------------------------------------------------------------------------------------------------------- who may write


def node_key(record_prefix: str, node: ClusterNode) -> str:
    """What a node's own keys of a link begin with; they lie in its first slot."""
    return f"{record_prefix}{{{slot_tag(node.first)}}}"


async def take_nodes(into: Destination) -> Destination:
    """Begins an epoch on every node of a cluster, and ends whatever connections have written there.

    Raises:
        LinkTaken: another process has the link.
        TargetLost: a node was restarted or is gone.
        TargetBusy: one refuses for now.
        TargetError: one refuses.
    """
    cluster = into.cluster
    assert cluster is not None, "a server has an epoch of its own"

    async def take(node: ClusterNode) -> Epoch:
        at_home = node.has(cluster.endpoint.slot)
        epoch = into.epoch if at_home else into.lease.epochs(node_key(into.records, node)).new()
        async with _entered(into, node, "since it was looked at") as opened:
            if not at_home:
                (answer,) = await opened.ask(epoch.stated())
                check(answer, "the epoch", epoch.key)
        return epoch

    return replace(into, node_epochs=tuple(await on_all("take", cluster.nodes, take)))


async def unseal(into: Destination, marker: Checkpoint) -> None:
    """Says in the records of all slots that a snapshot is applied to them; again does no harm.

    A node may fail over to a replica that lacks its last writes. Where that is the one which has the link's hash, the marker of the full
    sync is gone, and what others have of the snapshot must not be taken for what the stream brought.

    Raises:
        PortdError: see `seal`.
    """
    cluster = into.cluster
    assert cluster is not None, "a server has one record"
    await _require_map(cluster)

    async def write(node: ClusterNode) -> None:
        async with _entered(into, node, "since it was looked at") as opened:
            await write_records(opened, into.records, node.slots, marker.epoch, COPIED)

    await on_all("unseal", cluster.nodes, write)


async def seal(into: Destination, checkpoint: Checkpoint) -> None:
    """Writes the records of all slots: a snapshot is applied, and nothing else is on its way. Again does no harm.

    Markers of commands for all nodes go: what they say is of the history before, whose positions may have been higher.

    Raises:
        LinkTaken: another process has the link.
        TargetLost: a node is another process than the one that took the snapshot, or slots have other owners.
        TargetError: one refuses, for now or for good.
    """
    cluster = into.cluster
    assert cluster is not None, "a server has one record"
    await _require_map(cluster)

    async def write(node: ClusterNode) -> None:
        async with _entered(into, node, "behind the snapshot") as opened:
            await write_records(opened, into.records, node.slots, checkpoint.epoch, checkpoint.position.offset)
            marker = (into.key if node.has(cluster.endpoint.slot) else node_key(into.records, node)) + BARRIER_SUFFIX
            (answer,) = await opened.ask(request("DEL", marker))
            check(answer, "the marker of a command for all nodes", marker)

    await on_all("seal", cluster.nodes, write)


async def _require_map(cluster: ClusterTarget) -> None:
    """Makes sure that slots are where they were when the target was looked at; raises as `seal` does."""
    if (await read_map(cluster.endpoint, cluster.slots)).nodes != cluster.topology.nodes:
        raise slots_moved()


def slots_moved() -> TargetLost:
    """The error of a snapshot whose keys may be where nobody looked for what is to be removed, or written anew."""
    return TargetLost("slots of the target have moved since the snapshot began", hint="it starts over, by the new map")


@asynccontextmanager
async def _entered(into: Destination, node: ClusterNode, when: str) -> AsyncIterator[Connection]:
    """A connection to a node that is the process it was, over which nobody but us writes."""
    opened = await connect(node.endpoint, "node", ConnectionState(), into.connection)
    try:
        async with set_up(opened, node.endpoint.silence_seconds):
            (info,) = await opened.ask(request("INFO", "server"))
            require_process(b"" if text_of(info) else info, node.run_id, when)
            assert into.cluster is not None
            await require_home(into.cluster, into.epoch)  # whoever takes the link from now on ends this connection
            await end_connections(opened, into.lease)
            yield opened
    finally:
        opened.close()


async def end_connections(connection: Connection, lease: Lease) -> None:
    """Ends all connections that write through the link to a node, but for this one and the keepers of the lease."""
    eviction = lease.eviction
    assert eviction is not None, "it was seen to be allowed"
    await eviction.others(connection)
    await eviction.ours(connection)


async def require_home(cluster: ClusterTarget, home: Epoch) -> None:
    """Makes sure that an epoch stands at home.

    Raises:
        LinkTaken: another process has the link.
        TargetLost: the epoch is gone.
        TargetError: it cannot be asked for.
    """
    async with control(cluster.endpoint, "reading the epoch") as client:
        home.check(await client.call("HGET", home.key, "epoch"))
