"""What a check found: level, what, why it matters, what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

EXIT_WARNING = 1  # a sync will run, but something deserves a look first


class Level(StrEnum):
    """How much a finding matters, mildest first."""

    OK = "ok"  # looked at, and fine
    INFO = "info"  # worth knowing, or could not be looked at
    WARNING = "warning"  # a sync runs, but may lose, stall or hurt something
    ERROR = "error"  # a sync cannot work

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: how much it matters.
        subject: what was looked at, stable for scripts: `source.output-buffer`.
        what: what was found.
        why: what follows from it; empty where all is well.
        action: what to do about it; empty where nothing needs doing.
        exit_code: of a check whose worst finding this is, where it is an error.
        nodes: of a cluster that it is about, where it is not about all of them.
    """

    level: Level
    subject: str
    what: str
    why: str = ""
    action: str = ""
    exit_code: int = os.EX_CONFIG
    nodes: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """As an object of the JSON report."""
        found: dict[str, Any] = {
            "level": self.level.value,
            "subject": self.subject,
            "what": self.what,
            "why": self.why,
            "action": self.action,
        }
        return found | {"nodes": list(self.nodes)} if self.nodes else found


def fine(subject: str, what: str) -> Finding:
    """Looked at, and nothing to say against it."""
    return Finding(Level.OK, subject, what)


def note(subject: str, what: str, why: str = "", action: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.INFO, subject, what, why, action)


def warning(subject: str, what: str, why: str, action: str) -> Finding:
    """A sync will run, but."""
    return Finding(Level.WARNING, subject, what, why, action)


def error(subject: str, what: str, why: str, action: str, *, exit_code: int = os.EX_CONFIG) -> Finding:
    """A sync cannot work."""
    return Finding(Level.ERROR, subject, what, why, action, exit_code)


@dataclass(slots=True)
class Report:
    """All findings of one check, in the order they were looked at."""

    source: str  # URL without credentials
    target: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def worst(self) -> Level:
        """The worst level among the findings."""
        return max((finding.level for finding in self.findings), key=lambda level: level.rank, default=Level.OK)

    @property
    def exit_code(self) -> int:
        """0 when nothing stands in the way, `EXIT_WARNING` for warnings, else what the first error stands for."""
        if self.worst is Level.ERROR:
            return next(finding.exit_code for finding in self.findings if finding.level is Level.ERROR)
        return EXIT_WARNING if self.worst is Level.WARNING else os.EX_OK

    def shown(self) -> dict[str, Any]:
        """The JSON report."""
        return {
            "source": self.source,
            "target": self.target,
            "worst": self.worst.value,
            "exit_code": self.exit_code,
            "findings": [finding.shown() for finding in self.findings],
        }
