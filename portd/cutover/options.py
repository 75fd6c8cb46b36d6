"""How a cut-over is done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from portd.config.choices import VerifyMethod

if TYPE_CHECKING:
    from pathlib import Path


class Stop(StrEnum):
    """What stops the writes at the source."""

    PAUSE = "pause"  # CLIENT PAUSE WRITE: clients wait, and a cut-over that dies lets them go on
    ACL = "acl"  # the named users lose the right to write: clients get errors
    REPLICAS = "replicas"  # min-replicas-to-write: everybody's writes get errors
    COMMAND = "command"  # the operator's own


class Proof(StrEnum):
    """What is compared."""

    ALL = "all"  # every key, before; what changed since, while writes stand still
    CHANGES = "changes"  # what changes during the cut-over; the sync's last comparison speaks for the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an operator may choose.

    Attributes:
        rehearse: everything but to stop the writes and what follows from it.
        stop: what stops the writes.
        users: of the source, who lose the right to write: with `Stop.ACL` to begin with, otherwise at the end.
        stop_command: with `Stop.COMMAND`, run by a shell.
        resume_command: what makes it undone.
        most_seconds: for which writes may stand still before it is rolled back.
        keep_seconds: for which a pause goes on behind a success.
        proof: what is compared.
        method: how keys are read for the first comparison.
        verified_seconds: with `Proof.CHANGES`, how old the sync's last comparison may be.
        lag_seconds: the largest lag with which writes are stopped.
        wait_seconds: for the lag to be that small, postponed expiries to be set back, and so on.
        largest_bytes: larger values are not read again.
        accept_letters: dead letters are no reason to stay.
        then: run by a shell at the end, with the report on its standard input: what moves the clients.
        then_seconds: for it.
        key: file with a secret that the report is signed with.
    """

    rehearse: bool = False
    stop: Stop = Stop.PAUSE
    users: tuple[str, ...] = ()
    stop_command: str = ""
    resume_command: str = ""
    most_seconds: float = 10.0
    keep_seconds: float = 60.0
    proof: Proof = Proof.ALL
    method: VerifyMethod = VerifyMethod.AUTO
    verified_seconds: float = 86400.0
    lag_seconds: float = 1.0
    wait_seconds: float = 60.0
    largest_bytes: int = 256 << 20
    accept_letters: bool = False
    then: str = ""
    then_seconds: float = 60.0
    key: Path | None = None
