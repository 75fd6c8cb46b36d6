"""A link for each shard of a source that is a cluster: at the start, and again when it has shards that no link reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config.settings import Settings


def divided(described: Sequence[Settings]) -> tuple[Settings, ...]:
    """Links as they are run.

    Args:
        described: links as the operator has them.

    Raises:
        PortdError: see `portd.link.divide.divide`; two links would destroy what the other one does.
    """
    if not any(each.divided for each in described):
        return tuple(described)
    import asyncio  # noqa: PLC0415 - for clusters only

    from portd import log  # noqa: PLC0415 - the same
    from portd.config.tables import check_together  # noqa: PLC0415 - the same
    from portd.link.divide import divide_all  # noqa: PLC0415 - the same

    log.configure(described[0].log_format, described[0].log_level)
    links = asyncio.run(divide_all(described))
    check_together(links)
    return links
