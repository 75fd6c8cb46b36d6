"""Ending connections on the target, with whatever of them it has not read: the fence of what is sent outside of transactions.

The bulk of a snapshot goes without ``MULTI`` and ``EXEC``, which would cost the target a tenth of its time. Its connections
carry link and process in their names, and look at the epoch before they send anything. Whoever writes another epoch then
ends all of them: one that had its name before is found in ``CLIENT LIST``, one that got it later finds the epoch. A server
forgets what it has not executed of a connection that is ended, wherever its bytes are held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portd.target.connection import Connection

WHAT = "the end of connections"  # for messages


class Eviction:
    """Ends connections that write through a link.

    Args:
        link: its name.
        token: random, of this process.
    """

    def __init__(self, link: str, token: str) -> None:
        self._link = link
        self._token = token

    async def others(self, connection: Connection) -> None:
        """Ends those of other processes; call it behind the write of an epoch.

        Args:
            connection: nothing is outstanding on it.

        Raises:
            TargetRefused: our user may not.
            TargetError: the target refuses for another reason, or for now.
            Disconnected: the connection was lost.
        """
        await self._evict(connection, lambda _, token: token != self._token)

    async def ours(self, connection: Connection, prefix: str = "") -> None:
        """Ends those of this process whose name begins with *prefix*, but for *connection*; raises as `others` does."""
        await self._evict(connection, lambda name, token: token == self._token and name.startswith(prefix))

    async def _evict(self, connection: Connection, wanted: Callable[[str, str], bool]) -> None:
        (clients,) = await connection.ask(request("CLIENT", "LIST"))
        check(clients, WHAT)
        found = [each for each in _tagged(clients, self._link) if wanted(each.name, each.token)]
        kills = [request("CLIENT", "KILL", "ID", each.id) for each in found if each.id != connection.client_id]
        for answer in await connection.ask(*kills) if kills else ():
            check(answer, WHAT)


class Tagged(NamedTuple):
    """A connection as the target lists it."""

    id: int
    name: str
    token: str


def tag_of(link: str, token: str) -> str:
    """What stands behind the name of a connection of a process that writes through a link."""
    return f"@{link}.{token}"


def _tagged(clients: bytes, link: str) -> Iterator[Tagged]:
    """The connections that write through a link, from ``CLIENT LIST``."""
    for line in clients.decode("utf-8", "replace").splitlines():
        facts = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
        name, found, tag = facts.get("name", "").rpartition("@")
        owner, _, token = tag.rpartition(".")
        number = whole(facts.get("id", ""))
        if found and owner == link and number is not None:
            yield Tagged(number, name, token)
