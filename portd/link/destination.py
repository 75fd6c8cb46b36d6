"""The target as one session writes to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.config.rules import Choice
from portd.log import get_logger
from portd.target.kept.postponed import shift_of

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.errors import TargetBusy
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.connection import ConnectionOptions, Disconnected
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.epoch import Epoch
    from portd.target.kept.lease import Lease
    from portd.target.limiter import Limiter

log = get_logger("sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a link writes to, and how; a session has one, which differs from that of the session before by its epoch.

    Attributes:
        settings: of the link.
        endpoint: the target's address.
        capabilities: what it understands.
        connection: how connections that write are made.
        limiter: bounds the load on it.
        letters: receives refusals.
        lease: on the link.
        epoch: fences every write of a snapshot, and its successor those of the stream behind it; a stream that is
            continued is fenced by the epoch itself.
        choice: which keys are written, and where to.
        postpones: expiries that are near are sent later while the target lags.
        holds: all of them are, until the end.
    """

    settings: Settings
    endpoint: Endpoint
    capabilities: Capabilities
    connection: ConnectionOptions
    limiter: Limiter
    letters: DeadLetters
    lease: Lease
    epoch: Epoch
    choice: Choice = field(default_factory=Choice)
    postpones: bool = False
    holds: bool = False

    @property
    def key(self) -> str:
        """Of the checkpoint."""
        return self.settings.checkpoint_name()

    @property
    def shift_ms(self) -> int:
        """By how much expiries are later; 0 when they are not."""
        return shift_of(self.settings.link) if self.postpones else 0

    def note_refusal(self, error: TargetBusy | Disconnected) -> None:
        """A question or a write of ours is tried again."""
        self.letters.progress.last_error = str(error)
        if not self.connection.note(error):
            log.warning("target is not there, it is tried again", error=str(error))
