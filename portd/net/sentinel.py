"""Sentinels: who is the primary now?

A small client for the one question, asked anew for every connection: ``SENTINEL get-master-addr-by-name``. The first
Sentinel that knows answers (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.net.resp import request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

DEFAULT_PORT: Final = 26379
LINE_BYTES: Final = 4096  # longest line of a reply that is believed


class NoPrimary(ConnectionRefusedError):
    """No Sentinel could say where the primary is; an `OSError`, as a refused connection is."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Some Sentinels, and the name they know the primary by.

    Attributes:
        addresses: (host, port) of each.
        name: of the primary.
        username: ACL user at the Sentinels; None is the default user.
        password: at the Sentinels; None when they want none.
    """

    addresses: tuple[tuple[str, int], ...]
    name: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    async def find_primary(
        self, seconds: float, context: Callable[[], ssl.SSLContext] | None = None
    ) -> tuple[str, int]:
        """Host and port of the primary.

        Args:
            seconds: for all of them; one that is silent takes its share only: the next may be well.
            context: makes a TLS context for connections to the Sentinels; None is plain.

        Raises:
            NoPrimary: none can be asked, or none knows the name; the message says which answered what.
        """
        said: list[str] = []
        for host, port in self.addresses:
            try:
                async with asyncio.timeout(seconds / len(self.addresses)):
                    found = await self._ask(host, port, context() if context else None)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:  # TimeoutError is one
                said.append(f"{host}:{port}: {str(error) or type(error).__name__}")
                continue
            if found is not None:
                return found
            said.append(f"{host}:{port}: does not know {self.name!r}")
        raise NoPrimary(f"no Sentinel tells the primary ({'; '.join(said)})")

    async def _ask(self, host: str, port: int, context: ssl.SSLContext | None) -> tuple[str, int] | None:
        reader, writer = await asyncio.open_connection(
            host, port, limit=LINE_BYTES, ssl=context, server_hostname=host if context else None
        )
        try:
            if self.password is not None:
                words = [self.username] if self.username else []
                writer.write(request("AUTH", *words, self.password))
                if (answer := await _line(reader)) != b"+OK":
                    raise ValueError(f"refuses the credentials: {_shown(answer)}")
            writer.write(request("SENTINEL", "get-master-addr-by-name", self.name))
            head = await _line(reader)
            if head in {b"*-1", b"$-1", b"_"}:
                return None
            if head != b"*2":
                raise ValueError(f"answers {_shown(head)}")
            address, number = await _bulk(reader), await _bulk(reader)
            return address, int(number)
        finally:
            writer.transport.abort()


async def _line(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n"))[:-2]


async def _bulk(reader: asyncio.StreamReader) -> str:
    head = await _line(reader)
    if head[:1] != b"$" or not head[1:].isdigit() or int(head[1:]) > LINE_BYTES:
        raise ValueError(f"answers {_shown(head)}")
    return (await reader.readexactly(int(head[1:]) + 2))[:-2].decode("utf-8")


def _shown(answer: bytes) -> str:
    return answer[:80].decode("ascii", "backslashreplace")
