"""Refusals that pass: a server that is out of memory, loads, has too few replicas. Counted, shown, and told now and then.

Whoever is refused notes it and tries again; nobody else logs it. The first refusal is logged at once, after that a line
comes once a minute for as long as there are some, with what has come since the line before.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE: Final = "source"
TARGET: Final = "target"
OTHER: Final = "other"  # any code that is not in the table: codes come from a server, labels of a metric must not
CODES: Final = {
    SOURCE: ("LOADING", "NOMASTERLINK", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MISCONF", OTHER),
    TARGET: (
        "OOM", "LOADING", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "READONLY", OTHER,
    ),
}  # fmt: skip
TELL_SECONDS: Final = 60.0  # between two lines about one code of one side
OVER_SECONDS: Final = 15.0  # without a refusal: it has passed; the longest wait before the next try is a third of it

_WORD: Final = re.compile(r"\b[A-Z]{3,}\b")

log = get_logger("refusals")


@dataclass(slots=True)
class Trouble:
    """One code of one side.

    Attributes:
        text: the newest refusal, without arguments.
        count: refusals so far.
        since: monotonic seconds; when this run of refusals began.
        last: monotonic seconds of the newest refusal.
        told_at: monotonic seconds of the newest line about it.
        told: *count* at that time.
    """

    text: str = ""
    count: int = 0
    since: float = 0.0
    last: float = 0.0
    told_at: float = 0.0
    told: int = 0


@dataclass(slots=True)
class Troubles:
    """Refusals of both sides that pass by themselves.

    Args:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _found: dict[tuple[str, str], Trouble] = field(default_factory=dict)

    def note(self, side: str, code: str, text: str) -> None:
        """Takes a refusal that is waited out.

        Args:
            side: `source` or `target`.
            code: the first word of the reply; empty where only a sentence is known: the code is looked for in it.
            text: what the server said, as it may be logged.
        """
        code = known(side, code or text)
        now = self.clock()
        trouble = self._found.setdefault((side, code), Trouble())
        begins = trouble.count == 0 or now - trouble.last > OVER_SECONDS
        if begins:
            trouble.since = now
        trouble.count += 1
        trouble.text, trouble.last = text, now
        if begins and (trouble.told_at == 0 or now - trouble.told_at >= TELL_SECONDS):
            self._tell(side, code, trouble, now, "refused for now, it is tried again")
        elif now - trouble.told_at >= TELL_SECONDS:
            self._tell(side, code, trouble, now, "still refused")

    def note_loss(self, reason: str, text: str) -> bool:
        """Takes the end of a connection to the target; it counts when the *reason* is that the target refused for now."""
        counts = reason.upper() in CODES[TARGET]
        if counts:
            self.note(TARGET, reason.upper(), text)
        return counts

    def _tell(self, side: str, code: str, trouble: Trouble, now: float, event: str) -> None:
        count, trouble.told, trouble.told_at = trouble.count - trouble.told, trouble.count, now
        log.warning(
            event, side=side, code=code, error=trouble.text, refusals=count, seconds=round(now - trouble.since, 1)
        )

    def current(self) -> list[tuple[str, str, Trouble]]:
        """Side, code and trouble of what has not passed, newest first."""
        now = self.clock()
        found = [(side, code, each) for (side, code), each in self._found.items() if now - each.last <= OVER_SECONDS]
        return sorted(found, key=lambda each: each[2].last, reverse=True)

    def counts(self) -> dict[tuple[str, str], int]:
        """Refusals by side and code; every code there is, with zero where there were none."""
        totals: Counter[tuple[str, str]] = Counter()
        for side, codes in CODES.items():
            totals.update(dict.fromkeys(((side, code) for code in codes), 0))
        totals.update({where: each.count for where, each in self._found.items()})
        return dict(totals)


def known(side: str, text: str) -> str:
    """The code in a reply, or in a sentence about one; `other` when none is known."""
    return next((word for word in _WORD.findall(text) if word in CODES[side]), OTHER)
