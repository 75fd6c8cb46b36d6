"""What a link asks of a target that may be a cluster. What only clusters need is loaded by those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.target.probe import probe

if TYPE_CHECKING:
    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.clusternodes import ClusterTarget
    from portd.target.destination import Destination


async def look_at(endpoint: Endpoint, choice: Choice) -> tuple[Capabilities, ClusterTarget | None]:
    """What a target can do; of a cluster what all its nodes can, and they.

    Args:
        endpoint: the target.
        choice: which keys are copied: of a cluster, nodes that can have none of them are left out.

    Raises:
        PortdError: see `portd.target.probe.probe` and `portd.target.cluster.nodes.survey`.
    """
    if endpoint.seeds is None:
        return await probe(endpoint), None
    from portd.target.cluster.nodes import survey  # noqa: PLC0415

    cluster = await survey(endpoint, choice.slots)
    return cluster.capabilities, cluster


async def guard(cluster: ClusterTarget, settings: Settings, choice: Choice, source_run_id: str) -> None:
    """See `portd.target.cluster.nodes.guard_nodes`.

    Raises:
        ConfigError: also what cannot be had of a cluster.
    """
    if settings.verify_every:
        settings.target_endpoint().one_server("verify_every")
    from portd.target.cluster.nodes import guard_nodes  # noqa: PLC0415

    await guard_nodes(cluster, settings, choice, source_run_id)


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
