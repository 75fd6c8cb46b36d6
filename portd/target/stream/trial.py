"""Trials: which commands of a group would not be queued, asked before the group is sent.

A transaction of which one command is refused while it is queued has to be sent again without it, whole. Where a target refuses
commands of some name again and again (a permission that was taken away, a command or option that it does not know), those
commands alone go first, into a transaction that cannot be executed: it ends in a command without its arguments, which
makes a server refuse the ``EXEC`` behind it (server.c:processCommand, multi.c:flagTransaction). ``DISCARD`` would do, and
needs a permission that portd can do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.kernel.requests import named
from portd.net.replies import sort_out
from portd.net.resp import request
from portd.target.judge import outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.target.stream.group import Culprit, Group
    from portd.target.transactions import Transactions

MOST_NAMES: Final = 64  # that are tried; a name that comes when there are so many is refused as before
SPOILER: Final = request("HGET")


class Trials:
    """What is known of commands that were not queued; of one target."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()

    def note(self, refused: Sequence[Culprit]) -> None:
        """Commands that a target would not queue: their kind is tried from now on."""
        for culprit in refused:
            if len(self._names) < MOST_NAMES:
                self._names.add(culprit.command.encode("ascii", "backslashreplace"))

    async def run(self, transactions: Transactions, group: Group) -> dict[int, str]:
        """Which commands of a group the target would not queue now, and why, by number.

        Only those whose kind it has refused before are tried. What passes by itself is left to the transaction that
        counts, and so is what ends the sync.

        Raises:
            Disconnected: the connection is lost.
        """
        if not self._names:
            return {}
        data, numbers, names = named(b"".join(group.data), self._names)
        if not numbers:
            return {}
        await transactions.opened()
        tried = outcome(await transactions.spoil([data, SPOILER], len(numbers) + 1), len(numbers) + 1)
        found = sort_out({number: text for number, text in tried.queued.items() if number < len(numbers)})
        refused = {numbers[number]: text for number, text in found.refused.items()}
        self._names -= set(names) - {names[number] for number in found.refused}
        return refused
