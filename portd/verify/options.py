"""How a verification is done."""

from __future__ import annotations

from dataclasses import dataclass

from portd.config.choices import VerifyMethod as Method

__all__ = ["Method", "Options"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an operator may choose.

    Attributes:
        method: how keys are read.
        settle_seconds: a key differs when neither end changed it for so long, and they still differ. Longer than the
            lag of the sync between them.
        rounds: how often a key is read again at most; one that is changed all the time stays unsettled.
        largest_bytes: larger values are not read again: DUMP would block the server.
        repair: copy differing keys and function libraries to the target, remove extra keys.
        share: of the time in which keys are scanned; the rest is left to others. 1 does not wait.
    """

    method: Method = Method.AUTO
    settle_seconds: float = 3.0
    rounds: int = 20
    largest_bytes: int = 256 * MIB
    repair: bool = False
    share: float = 1.0
