"""What a link asks of a target that may be a cluster. What only clusters need is loaded by those."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.log import get_logger
from portd.net.resp import request
from portd.target.kept.checkpoint import flush, others_would_go
from portd.target.kept.directory import other_links
from portd.target.kept.epoch import write_once
from portd.target.kept.importmode import ImportMode
from portd.target.kept.neighbours import Neighbours
from portd.target.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.target.capabilities import Capabilities
    from portd.target.cluster.importing import ClusterImportMode
    from portd.target.clusternodes import ClusterTarget
    from portd.target.destination import Destination

FORGET_SECONDS: Final = 5.0  # for one node

log = get_logger("target")


async def look_at(
    endpoint: Endpoint, choice: Choice, neighbours: Neighbours | None = None
) -> tuple[Capabilities, ClusterTarget | None]:
    """What a target can do; of a cluster what all its nodes can, and they.

    Args:
        endpoint: the target.
        choice: which keys are copied: of a cluster, nodes that can have none of them are left out.
        neighbours: shared with other links of the process.

    Raises:
        PortdError: see `portd.target.probe.probe` and `portd.target.cluster.nodes.survey`.
    """
    probing = (neighbours or Neighbours()).probing(endpoint)
    if endpoint.seeds is None:
        async with probing:
            return await probe(endpoint), None
    from portd.target.cluster.nodes import survey  # noqa: PLC0415

    cluster = await survey(endpoint, choice.slots, probing)
    return cluster.capabilities, cluster


def import_mode(
    endpoint: Endpoint, prefix: str, link: str, progress: Progress, slots: Callable[[], Ranges]
) -> ImportMode | ClusterImportMode:
    """What keeps a target in import mode.

    Args:
        endpoint: the target.
        prefix: of checkpoint keys.
        link: its name.
        progress: counts losses of the mode.
        slots: tells what the link writes to, of a cluster.
    """
    if endpoint.seeds is None:
        return ImportMode(endpoint, prefix, link, progress)
    from portd.target.cluster.importing import ClusterImportMode  # noqa: PLC0415

    return ClusterImportMode(endpoint, prefix, link, progress, slots)


async def guard(cluster: ClusterTarget, settings: Settings, choice: Choice, source_run_id: str) -> None:
    """See `portd.target.cluster.nodes.guard_nodes`. Says what of the source's commands may have no exact form there.

    Raises:
        ConfigError: also what cannot be had of a cluster.
    """
    from portd.link.crossing import tell_crossing  # noqa: PLC0415
    from portd.target.cluster.nodes import guard_nodes  # noqa: PLC0415

    await guard_nodes(cluster, settings, choice, source_run_id)
    await tell_crossing(settings.source_endpoint(), choice)


async def take(destination: Destination) -> Destination:
    """Of a cluster, nobody but us writes to any node from now on; see `portd.target.cluster.nodes.take_nodes`."""
    if destination.cluster is None:
        return destination
    from portd.target.cluster.nodes import take_nodes  # noqa: PLC0415

    return await take_nodes(destination)


async def count_keys(settings: Settings, choice: Choice) -> int:
    """Keys of all nodes of a cluster that are not ours, as far as they are covered where there are rules.

    Raises:
        TargetError: they cannot be counted.
    """
    from portd.target.cluster.nodes import keys_of_cluster  # noqa: PLC0415

    return await keys_of_cluster(settings, choice)


async def guard_contents(cluster: ClusterTarget, settings: Settings, choice: Choice) -> None:
    """See `portd.target.cluster.nodes.guard_nodes`, of a file in the place of a source."""
    from portd.target.cluster.nodes import guard_nodes  # noqa: PLC0415

    await guard_nodes(cluster, settings, choice, "")


async def flush_all(into: Destination) -> None:
    """``existing: flush`` of a cluster without a checkpoint of ours: deletes everything on every node, if there is anything.

    Raises:
        ConfigError: rules choose what is written, and other links have something there.
        TargetError: a node refuses, or cannot be reached.
    """
    if keys := await count_keys(into.settings, into.choice):
        if into.choice and await other_links(into.settings):
            raise others_would_go()
        for place in into.places:
            await flush(place.endpoint, place.epoch, into.connection)
        log.warning("target flushed", reason="existing is flush", keys=keys)


async def forget(destination: Destination) -> None:
    """Takes the epochs of all nodes of a cluster away, behind work that nobody goes on with. What fails stays, and is told."""
    if destination.cluster is None:
        return
    for place in destination.places if destination.node_epochs else ():
        if place.epoch.key == destination.epoch.key:  # it goes with the lease
            continue
        try:
            async with asyncio.timeout(FORGET_SECONDS):
                gone = request("DEL", place.epoch.key)
                await write_once(place.endpoint, destination.connection, place.epoch, gone, what="the epoch")
        except (TargetError, TimeoutError) as error:
            log.warning("a key of ours stays in the target", key=place.epoch.key, error=str(error))
