"""How a stream is applied, and what can be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.config.rules import Choice
from portd.target.connection import ConnectionOptions
from portd.target.limiter import Limiter
from portd.target.stream.scriptbook import ScriptBook
from portd.target.stream.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.target.kept.epoch import Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplierOptions:
    """How the stream is applied.

    Attributes:
        epoch: what every transaction is fenced by, beside the checkpoint.
        choice: which keys are taken, and where they go.
        prefix: of keys of ours, which nothing clears away.
        unlink: the target knows UNLINK, and lets us.
        max_bytes: a group takes no further piece at this size; the target executes it in one go. How large groups are
            below that, `portd.target.groupsize` decides.
        max_commands: nor at this many commands.
        caught_up_seconds: bytes received up to that long ago may be missing, and the target has caught up all the same.
        limiter: what is asked before a group is sent.
        ages: the source hands the same bytes out differently later: a group that is refused for long is made again.
        connection: how connections are made.
        beside: what writes the lease anew where it is cleared away.
        scripts: what is known of the source's scripts.
        others: further keys of ours, whose owners write them again.
        branch: of the history in which the target's positions are, the source has only what is up to this offset; None
            where it has all.
    """

    epoch: Epoch
    choice: Choice = field(default_factory=Choice)
    prefix: str = ""
    unlink: bool = False
    max_bytes: int = 1024 * 1024
    max_commands: int = 4096
    caught_up_seconds: float = 1.0
    limiter: Limiter = field(default_factory=Limiter)
    ages: bool = False
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    beside: Callable[[], list[bytes]] | None = None
    scripts: Scripts = field(default_factory=lambda: Scripts(ScriptBook()))
    others: tuple[str, ...] = ()
    branch: int | None = None

    def restated(self) -> list[bytes]:
        """What writes our keys beside the checkpoint anew."""
        return [*(self.beside() if self.beside is not None else ()), self.epoch.stated()]


@dataclass(frozen=True, slots=True)
class ApplierStatistics:
    """A moment of the applier.

    Attributes:
        in_flight_bytes: of the group whose EXEC is not answered.
        growing_bytes: of the next one.
        excluded: commands left out that the checkpoint does not cover yet.
    """

    in_flight_bytes: int
    growing_bytes: int
    excluded: int
