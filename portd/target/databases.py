"""How many databases a target has, and which of them can be selected.

A SELECT that fails inside a transaction does not stop it: the commands behind it would take effect in the wrong
database. So none is sent in one that was not seen to work outside of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.log import get_logger
from portd.net.control import checked
from portd.net.replies import Verdict, classify, code_of, presentable
from portd.net.resp import request
from portd.target.connection import text_of
from portd.target.control import control

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.net.endpoint import Endpoint
    from portd.target.connection import Connection

_log = get_logger("target")

MOST: Final = 1 << 24  # more databases than any server is told to have
HINT: Final = "raise `databases` in the target's settings and restart it; what belongs there is refused until then"


async def count_databases(connection: Connection) -> int:
    """The number of databases that can be selected; the connection is in db 0 afterwards. Asks by bisection.

    A database that our user may not select counts as one: it is there.

    Returns:
        0 when it cannot be told now.
    """
    low, high = 0, MOST  # the largest that exists lies in [low, high)
    first = [16, 64, 256, 4096]
    while high - low > 1:
        number = first.pop(0) if first and low < first[0] < high else (low + high) // 2
        (answer,) = await connection.ask(request("SELECT", number))
        text = text_of(answer)
        if text and classify(text) is not Verdict.REJECTED:
            low = -1
            break
        if text and code_of(text) != "NOPERM":
            high = number
            first.clear()
        else:
            low = number
    await connection.ask(request("SELECT", 0))
    return low + 1 if high < MOST else 0


class Databases:
    """What one applier knows about the databases of its target.

    Args:
        endpoint: the target.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._there = {0}
        self._missing: set[int] = set()

    def forget(self) -> None:
        """The target may be another process by now, with fewer databases."""
        self._there = {0}

    def selectable(self, db: int) -> int:
        """The database itself, 0 when it cannot be selected; what is not known (-1) stays so."""
        return db if db < 0 or db in self._there else 0

    async def find_missing(self, wanted: Iterable[int]) -> frozenset[int]:
        """Asks for those of *wanted* that nothing is known about.

        Returns:
            Those that turn out not to be there, once.

        Raises:
            TargetLost: the target cannot be reached.
            TargetBusy: it refuses for now.
            TargetError: it refuses everything.
        """
        asked = [db for db in wanted if db >= 0 and db not in self._there and db not in self._missing]
        if not asked:
            return frozenset()
        missing = set()
        async with control(self._endpoint, "looking for its databases") as client:
            for db, answer in zip(asked, await client.ask(*(request("SELECT", db) for db in asked)), strict=True):
                text = text_of(answer)
                if text and classify(text) is not Verdict.REJECTED:
                    checked(answer)
                if text:
                    missing.add(db)
                    _log.warning("target lacks a database", db=db, reply=presentable(text), hint=HINT)
                else:
                    self._there.add(db)
        self._missing |= missing
        return frozenset(missing)
