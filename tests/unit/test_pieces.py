"""Strings that may be too large to hold, over the same control connection as other questions."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from portd.errors import SourceLost
from portd.net.control import Refused
from portd.net.endpoint import Endpoint
from portd.net.pieces import PieceControl
from portd.net.resp import request
from tests.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = bytes(range(256)) * 8192  # 2 MiB
ANSWERS = {
    b"small": b"$5\r\nabcde\r\n",
    b"none": b"$-1\r\n",
    b"empty": b"$0\r\n\r\n",
    b"forbidden": b"-NOPERM no\r\n",
    b"large": b"$%d\r\n%s\r\n" % (len(LARGE), LARGE),
    b"cut": b"$100\r\nabc",
    b"number": b":1\r\n",
    b"PING": b"+PONG\r\n",
}


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[PieceControl]:
    """A connection to a server that answers by the last word of each command, and goes behind an answer that is cut."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                words = []
                for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(ANSWERS[words[-1]])
                await writer.drain()
                if words[-1] == b"cut":
                    break
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        control = PieceControl(Endpoint("127.0.0.1", listener.sockets[0].getsockname()[1]))
        await control.open()
        try:
            yield control
        finally:
            control.close()
            await asyncio.gather(*(task for task in serving if task))


def asked(*names: str) -> list[bytes]:
    """Questions for strings."""
    return [request("DUMP", name) for name in names]


async def read_all(control: PieceControl, *names: str) -> None:
    """Reads strings, all of them there."""
    async with control.strings(asked(*names)) as strings:
        for _ in names:
            await strings.rest(await strings.next())


async def test_strings_come_in_the_order_of_the_questions() -> None:
    """Each is read to its end, in pieces and as a rest; nil is none; other questions may follow."""
    async with opened() as control:
        async with control.strings(asked("small", "none", "empty", "large", "small")) as strings:
            assert await strings.next() == 5
            assert b"".join([piece async for piece in strings.pieces(2)]) == b"ab"
            assert await strings.rest(3) == b"cde"
            assert await strings.next() == -1
            assert await strings.next() == 0
            assert await strings.rest(0) == b""
            assert await strings.next() == len(LARGE)
            assert b"".join([piece async for piece in strings.pieces(len(LARGE) - 10)]) == LARGE[:-10]
            assert await strings.rest(10) == LARGE[-10:]
            assert await strings.next() == 5
            assert await strings.rest(5) == b"abcde"
        assert await control.call("PING") == b"PONG"


async def test_what_nobody_takes_is_not_read() -> None:
    """The server waits when its reader does, and is let go on for whatever is asked next."""
    async with opened() as control:
        async with control.strings(asked("large")) as strings:
            size = await strings.next()
            transport = strings.transport
            await wait_for(lambda: transport is not None and not transport.is_reading())
            assert b"".join([piece async for piece in strings.pieces(size)]) == LARGE
            await strings.rest(0)
        async with control.strings(asked("large")) as strings:
            assert await strings.next() == size
            assert await strings.rest(size) == LARGE
        assert await control.call("PING") == b"PONG"


async def test_an_error_reply_is_raised_where_the_string_belongs() -> None:
    """The connection ends with it: what else was asked may still come."""
    async with opened() as control:
        with pytest.raises(Refused, match="NOPERM no"):
            await read_all(control, "small", "forbidden", "small")
        with pytest.raises(SourceLost, match="was lost"):
            await control.call("PING")


@pytest.mark.parametrize(("name", "words"), [("cut", "was lost: it closed"), ("number", "does not speak RESP")])
async def test_a_string_that_is_none_is_told(name: str, words: str) -> None:
    """A connection that ends inside of it, and an answer of another kind."""
    async with opened() as control:
        with pytest.raises(SourceLost, match=words):
            await read_all(control, name)
