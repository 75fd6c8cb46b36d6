"""What of the source's commands may not be cut by slot in a cluster: keys that they write are copied then (docs/design/0009).

How often each was called since the source started, its ``INFO commandstats`` tells; whether their keys shared a slot, nobody does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portd.kernel.keytable import TABLE
from portd.log import get_logger
from portd.net.control import calls_by_command
from portd.source.info import ask_info
from portd.units import human_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portd.config.rules import Choice
    from portd.net.endpoint import Endpoint

log = get_logger("target")

WRITES: Final = ("RW", "OW", "RM")
# Commands of several keys, or of several databases, of which rules may take a part (docs/filters.md): those that write and have keys at
# places of different meaning, scripts, and what the places of keys do not tell.
PARTLY: Final = frozenset(
    name.lower()
    for text, names in TABLE.items()
    if ("; " in text and any(use in text for use in WRITES)) or text == "2# RW access update"
    for name in names.split()
) | {"sort", "move", "swapdb", "flushdb", "flushall"}
# Of them, those of several keys that are not cut by slot, or whose keys are not told; of those of several databases nothing is said here.
CROSSING: Final = PARTLY - {"move", "swapdb", "flushdb", "flushall", "eval", "evalsha", "fcall"}


@dataclass(frozen=True, slots=True)
class Crossing:
    """Calls since the source started.

    Attributes:
        used: of commands that may not be cut, by name; those that were never called are left out.
        total: of all commands.
    """

    used: Mapping[str, int]
    total: int

    @classmethod
    def of(cls, told: Iterable[Mapping[str, str]]) -> Crossing:
        """Of some servers, from what each says in ``INFO commandstats``."""
        calls: Counter[str] = Counter()
        for info in told:
            calls.update(calls_by_command(info))
        return cls({name: count for name, count in sorted(calls.items()) if name in CROSSING and count}, calls.total())

    def __str__(self) -> str:
        """For people."""
        names = ", ".join(f"{name} ({count})" for name, count in self.used.items())
        return f"{names}: {sum(self.used.values())} of {human_count(self.total)} calls"


def may_cross(source: Endpoint, choice: Choice) -> bool:
    """Whether keys of one command can have several slots: not those of a cluster, as long as they keep their names."""
    return source.seeds is None or (choice.mapping is not None and choice.mapping.names)


async def tell_crossing(source: Endpoint, choice: Choice) -> None:
    """Says at the start what may make keys be copied one by one, where the source lets us ask."""
    if not may_cross(source, choice):
        return
    found = Crossing.of([await ask_info(source, "commandstats")])
    if found.used:
        log.info(
            "commands in use may have keys in several slots of the target: keys that they write are copied one by one then",
            calls=str(found), hint="a common {tag} keeps keys together",
        )  # fmt: skip
