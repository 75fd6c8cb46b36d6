"""The target as one session, or one restore, writes to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from portd.config.rules import Choice
from portd.log import get_logger
from portd.target.kept.checkpoint import ONE_STRAND, SLOT_STRANDS
from portd.target.kept.postponed import shift_of

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.errors import TargetBusy
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.pipeline import ByteBudget
    from portd.target.capabilities import Capabilities
    from portd.target.clusternodes import ClusterTarget
    from portd.target.connection import ConnectionOptions, Disconnected
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.epoch import Epoch
    from portd.target.kept.lease import Lease
    from portd.target.limiter import Limiter
    from portd.target.stream.scriptbook import ScriptBook

log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Place:
    """One server of the target.

    Attributes:
        endpoint: its address.
        epoch: what is written to it is fenced by.
        run_id: of its process; "" when it does not tell.
        slots: that it has of those that the link writes to; None: it is no node of a cluster.
    """

    endpoint: Endpoint
    epoch: Epoch
    run_id: str
    slots: Ranges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a link writes to, and how, while its lease is held; one session's differs from the next one's by the epoch.

    Attributes:
        settings: of the link.
        endpoint: the target's address.
        capabilities: what it understands.
        connection: how connections that write are made.
        limiter: bounds the load on it.
        budget: bounds what is on its way to it in queue and lanes.
        letters: receives refusals.
        scripts: texts that what is written may call by their SHA1.
        lease: on the link.
        epoch: fences every write.
        choice: which keys are written, and where to.
        postpones: expiries that are near are sent later while the target lags.
        holds: all of them are, until the end.
        cluster: its nodes, where it is a cluster; *endpoint* is the home of the link then.
        node_epochs: of a cluster, what a snapshot is fenced by on each node.
    """

    settings: Settings
    endpoint: Endpoint
    capabilities: Capabilities
    connection: ConnectionOptions
    limiter: Limiter
    budget: ByteBudget
    letters: DeadLetters
    scripts: ScriptBook
    lease: Lease
    epoch: Epoch
    choice: Choice = field(default_factory=Choice)
    postpones: bool = False
    holds: bool = False
    cluster: ClusterTarget | None = None
    node_epochs: tuple[Epoch, ...] = ()

    @property
    def places(self) -> list[Place]:
        """The servers that a snapshot is written to."""
        if self.cluster is None:
            return [Place(self.endpoint, self.epoch, self.capabilities.run_id)]
        return [
            Place(node.endpoint, epoch, node.run_id, node.slots)
            for node, epoch in zip(self.cluster.nodes, self.node_epochs, strict=True)
        ]

    @property
    def strands(self) -> str:
        """What the checkpoint says of its strands."""
        return ONE_STRAND if self.cluster is None else SLOT_STRANDS

    @property
    def records(self) -> str:
        """Of a cluster: what the keys of the slots' records begin with."""
        return self.settings.records_prefix()

    @property
    def key(self) -> str:
        """Of the checkpoint."""
        return self.settings.checkpoint_name()

    @property
    def shift_ms(self) -> int:
        """By how much expiries are later; 0 when they are not."""
        return shift_of(self.settings.link) if self.postpones else 0

    def behind_checkpoint(self) -> Destination:
        """The same once a checkpoint has closed its epoch, behind a snapshot or a file: its successor fences what follows."""
        return replace(self, epoch=self.epoch.successor)

    def note_refusal(self, error: TargetBusy | Disconnected) -> None:
        """A question or a write of ours is tried again."""
        self.letters.progress.errors.note(str(error))
        if not self.connection.note(error):
            log.warning("target is not there, it is tried again", error=str(error))
