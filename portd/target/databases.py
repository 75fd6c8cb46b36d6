"""How many databases a target has, and which ones a piece of the stream selects.

A SELECT that fails inside a transaction does not stop it: the commands behind it would take effect in the wrong
database. So the numbers are compared before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.kernel.requests import split
from portd.resp import request
from portd.target.connection import text_of
from portd.target.replies import Verdict, classify

if TYPE_CHECKING:
    from portd.target.connection import Connection

MOST: Final = 1 << 24  # more databases than any server is told to have
_SELECT: Final = b"$6\r\nSELECT\r\n$"


async def count_databases(connection: Connection) -> int:
    """The number of databases that can be selected; the connection is in db 0 afterwards. Asks by bisection.

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
        if text:
            high = number
            first.clear()
        else:
            low = number
    await connection.ask(request("SELECT", 0))
    return low + 1


def highest_database(data: bytes) -> int:
    """The highest database that a piece of the stream may select, -1 when none.

    Servers write their SELECT in one form. The same bytes inside a value are counted as well, so that a number that is
    too high has to be looked at again with `selected`.
    """
    highest, position = -1, data.find(_SELECT)
    while position >= 0:
        start = data.find(b"\n", position + len(_SELECT)) + 1
        number = data[start : data.find(b"\r", start)] if start else b""
        if number.isdigit():
            highest = max(highest, int(number))
        position = data.find(_SELECT, position + len(_SELECT))
    return highest


def selected(data: bytes) -> int:
    """The highest database that a piece, which begins with a command, does select; -1 when none."""
    return max((each.db for each in split(data)), default=-1)
