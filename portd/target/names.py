"""Tells operators, by name, which commands of the stream are not for the target."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from portd.log import get_logger

if TYPE_CHECKING:
    from portd.kernel.stream import Piece

_log = get_logger("target")

EVERY_SECONDS: Final = 60.0  # a name is told again after so long at the earliest
MOST_NAMES: Final = 64  # names told apart; the others share one line
OURS: Final = "names of portd"  # the line about commands on keys that are ours alone
OTHERS: Final = "others"


class FilteredNames:
    """What was told, and when."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}  # when, monotonic

    def note(self, piece: Piece) -> None:
        """Logs what a piece left out, unless that was told a moment ago."""
        for name in sorted(piece.names):
            if self._is_due(name):
                _log.info("command of the stream is not for the target", command=name, offset=piece.end_offset)
        if piece.own and self._is_due(OURS):
            _log.warning(
                "the source has keys named like those of portd: they are not copied", offset=piece.end_offset,
                hint="harmless when the source is itself the target of a portd; rename them, or set checkpoint_key, otherwise",
            )  # fmt: skip

    def _is_due(self, name: str) -> bool:
        if name not in self._told and len(self._told) >= MOST_NAMES:
            name = OTHERS
        now = time.monotonic()
        if now - self._told.get(name, -EVERY_SECONDS) < EVERY_SECONDS:
            return False
        self._told[name] = now
        return True
