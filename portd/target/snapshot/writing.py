"""How a snapshot is written: what all its lanes have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.target.connection import ConnectionOptions
from portd.target.limiter import Limiter

if TYPE_CHECKING:
    from portd.target.kept.epoch import Epoch
    from portd.target.kept.eviction import Eviction

DEFAULT_WINDOW_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """How the snapshot is written.

    Attributes:
        epoch: what every transaction is fenced by.
        eviction: how lost connections are ended on the target; None where our user may not.
        writers: number of lanes.
        window_bytes: how much one lane sends ahead of the replies.
        skip_existing: existing keys are left alone; must agree with the decoder's setting.
        seats: threads of the target that read from connections.
        run_id: the target process the snapshot began with; "" when it is not known.
        limiter: what all lanes ask before they send.
        connection: how connections are made.
    """

    epoch: Epoch
    eviction: Eviction | None = None
    writers: int = 4
    window_bytes: int = DEFAULT_WINDOW_BYTES
    skip_existing: bool = False
    seats: int = 1
    run_id: str = ""
    limiter: Limiter = field(default_factory=Limiter)
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


def lane_name(index: int) -> str:
    """What a lane is called: its connection, and its share of the budget."""
    return f"lane-{index}"
