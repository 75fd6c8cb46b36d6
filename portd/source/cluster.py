"""Is the source a node of a cluster? Then it holds one shard of the data, and a copy of it is not a copy of the whole.

``INFO cluster`` tells; where that is forbidden, the reply to ``CLUSTER INFO``, which a server outside of a cluster refuses
(cluster.c:clusterCommand). A user who may ask neither learns it from the snapshot: `SnapshotDecoder.of_cluster_node`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.errors import ConfigError
from portd.log import get_logger
from portd.net.control import Refused, open_control, parse_info
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.net.endpoint import Endpoint

_log = get_logger("source")

QUESTION: Final = request("CLUSTER", "INFO")
_DISABLED: Final = "cluster support disabled"


def is_node(info: Mapping[str, str], answer: object) -> bool | None:
    """Whether a server is a node of a cluster; None when that is not known.

    Args:
        info: fields of INFO, as far as they are known.
        answer: to `QUESTION`.
    """
    if "cluster_enabled" in info:
        return info["cluster_enabled"] != "0"
    if isinstance(answer, bytes):
        return b"cluster_state" in answer
    return False if _DISABLED in str(answer) else None


async def ask(endpoint: Endpoint) -> bool | None:
    """Asks a server whether it is a node of a cluster; None when it does not tell, or cannot be asked now.

    What is wrong with it is for the receiver to say.

    Raises:
        ConfigError: a TLS file cannot be used.
    """
    try:
        async with open_control(endpoint) as control:
            told, answer = await control.ask(request("INFO", "cluster"), QUESTION)
    except (Refused, OSError):
        return None
    return is_node(parse_info(told) if isinstance(told, bytes) else {}, answer)


def admit(endpoint: Endpoint, node: bool | None, *, one_shard: bool) -> None:  # noqa: FBT001 - what `is_node` says
    """Lets a source pass that is no node of a cluster, or one of which a shard is meant.

    Args:
        endpoint: the source.
        node: as `is_node` tells; None passes, and its snapshot is looked at.
        one_shard: the setting.

    Raises:
        ConfigError: it is a node, and nobody said that this is meant.
    """
    if node and not one_shard:
        raise only_one_shard(endpoint.display)
    if node:
        _log.warning("the source is one shard of a cluster", hint="keys of its other shards are missing")
    elif one_shard and node is None:
        _log.warning(
            "the source does not tell whether it is one shard of a cluster",
            hint="if so, keys of other shards are missing",
        )


def only_one_shard(where: str) -> ConfigError:
    """The error of a command that was not told that one shard is meant."""
    return ConfigError(
        f"the source {where} is a node of a cluster: it holds one shard, and all others would be missing",
        hint="redis+cluster://host:port names all shards for a sync; --one-shard says that the keys of this node are all that "
        "is wanted",
    )
