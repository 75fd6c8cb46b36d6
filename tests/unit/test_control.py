"""Control connections: questions, their answers, and servers that give none."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import hiredis
import pytest

from portd.config.settings import Settings
from portd.errors import PortdError
from portd.net.control import (
    Control,
    Refused,
    calls_by_command,
    checked,
    keys_by_database,
    open_control,
    parse_fields,
    parse_pairs,
)
from portd.net.endpoint import Endpoint
from portd.net.resp import request
from portd.preflight import permissions
from portd.preflight.names import own_names
from portd.preflight.survey import Unreachable, survey, write_rate
from portd.source import cluster
from portd.source.info import ask_info, ask_keys, read_info
from portd.target.kept.checkpoint import read_checkpoint
from portd.target.kept.lease import read_lease
from portd.target.probe import inspect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SHORT_SECONDS = 0.2
QUESTIONS: dict[str, Callable[[Endpoint, Settings], Awaitable[object]]] = {
    "who the source is": lambda end, _: read_info(end),
    "a section of INFO": lambda end, _: ask_info(end, "replication"),
    "keys": lambda end, _: ask_keys(end),
    "a cluster's node": lambda end, _: cluster.ask(end),
    "survey": lambda end, _: survey(end),
    "write rate": lambda end, _: write_rate(end, 0.01),
    "own names": own_names,
    "permissions": lambda end, _: permissions.source_permissions(end, "PSYNC"),
    "probe": lambda end, _: inspect(end),
    "checkpoint": lambda end, settings: read_checkpoint(end, settings.checkpoint_name()),
    "lease": lambda end, settings: read_lease(end, settings.checkpoint_name()),
}


@contextlib.asynccontextmanager
async def server(*pieces: bytes, before: bytes = b"", closes: bool = False) -> AsyncIterator[Endpoint]:
    """Says *before* when a client comes, and *pieces* one by one when it has said something."""
    done = asyncio.Event()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            writer.write(before)
            if pieces:
                await reader.read(1 << 16)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
            if not closes:
                await reader.read()
        writer.close()
        done.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield Endpoint("127.0.0.1", listener.sockets[0].getsockname()[1])
    await done.wait()
    await asyncio.gather(*(task for task in serving if task))


def one_by_one(data: bytes) -> list[bytes]:
    """Each byte in a packet of its own."""
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "bytes"])
async def test_answers_come_in_order(cut: Callable[[bytes], list[bytes]]) -> None:
    """Whatever the packets: bulk strings, numbers, nil, arrays and errors, each at its place."""
    said = b"$2\r\nab\r\n:7\r\n$-1\r\n*2\r\n$1\r\nx\r\n-ERR inner\r\n-WRONGTYPE no\r\n"
    async with server(*cut(said)) as end, open_control(end) as control:
        text, number, nil, array, error = await control.ask(*[request("GET", n) for n in range(5)])
    assert (text, number, nil, array[0]) == (b"ab", 7, None, b"x")
    assert isinstance(array[1], hiredis.ReplyError)
    with pytest.raises(Refused, match="WRONGTYPE no") as caught:
        checked(error)
    assert not caught.value.login


async def test_an_error_reply_is_raised_by_call() -> None:
    """NOAUTH and WRONGPASS are about our user, others are not; the connection goes on."""
    async with server(b"-NOAUTH Authentication required.\r\n") as end, open_control(end) as control:
        with pytest.raises(Refused, match=r"NOAUTH") as caught:
            await control.call("INFO", "server")
        assert caught.value.login


async def test_refused_credentials_are_told_apart() -> None:
    """Whatever AUTH is refused with, old servers have no code for it."""
    async with server(b"-ERR invalid password\r\n") as end:
        secured = Endpoint(end.host, end.port, password="wrong")
        with pytest.raises(Refused, match="invalid password") as caught:
            async with open_control(secured):
                pytest.fail("nobody is in")
    assert caught.value.login


@pytest.mark.parametrize("when", ["before we ask", "while we ask"])
async def test_a_full_server_is_one_that_cannot_be_reached(when: str) -> None:
    """It says so on its own."""
    said = b"-ERR max number of clients reached\r\n"
    early = when == "before we ask"
    full = server(*([] if early else [said]), before=said if early else b"", closes=True)
    async with full as end, open_control(end) as control:
        if early:
            await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError, match="max number of clients"):
            await control.call("PING")


async def test_protected_mode_is_a_refusal() -> None:
    """-DENIED comes without a question as well; its text reaches the operator."""
    protected = server(before=b"-DENIED Redis is running in protected mode.\r\n", closes=True)
    async with protected as end, open_control(end) as control:
        await asyncio.sleep(0.02)
        with pytest.raises(Refused, match="DENIED Redis is running"):
            await control.call("PING")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"+OK\r\n+OK\r\n", b"$3\r\nabc\r\n:1"])
async def test_what_is_no_answer_ends_the_connection(said: bytes) -> None:
    """Another protocol, or more than was asked for, is never taken for an answer."""
    async with server(said) as end, open_control(end) as control:
        with pytest.raises(ConnectionAbortedError, match="does not speak RESP"):
            await control.call("PING")
        with pytest.raises(OSError, match="does not speak RESP"):
            await control.call("PING")


async def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile server cannot fill our memory: the announced length is not believed, what comes is bounded."""
    monkeypatch.setattr(Control, "most_bytes", 1000)
    async with server(b"$99999999\r\n", b"x" * 900, b"x" * 900) as end, open_control(end) as control:
        with pytest.raises(ConnectionAbortedError, match="more than 1000 bytes"):
            await control.call("GET", "big")


async def test_a_silent_server_is_given_up() -> None:
    """And the connection with it: a late answer would be taken for that to the next question."""
    async with server(b"") as end, open_control(replace(end, connect_seconds=SHORT_SECONDS)) as control:
        with pytest.raises(TimeoutError):
            await control.call("PING")
        with pytest.raises(ConnectionResetError):
            await control.call("PING")


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
async def test_the_setting_reaches_every_question(ask: Callable[[Endpoint, Settings], Awaitable[object]]) -> None:
    """Whatever is asked waits for an answer as long as `connect_seconds` says; an hour, or a moment."""
    async with server(b"") as end:
        url = end.display
        settings = Settings(source=url, target="redis://192.0.2.1", connect_seconds=SHORT_SECONDS)
        async with asyncio.timeout(8):  # less than without the setting
            with contextlib.suppress(PortdError, Unreachable):
                await ask(settings.source_endpoint(), settings)
        assert replace(settings, connect_seconds=3600.0).target_endpoint().connect_seconds == 3600


async def test_a_cancelled_question_closes_too() -> None:
    """Its answer may be on the way."""
    async with server(b"") as end, open_control(end) as control:
        asking = asyncio.ensure_future(control.call("PING"))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(ConnectionResetError):
            await control.call("PING")


async def test_a_closed_connection_is_told() -> None:
    """A server that goes away while it is asked, and then when it is asked again."""
    async with server(b"$10\r\nab", closes=True) as end, open_control(end) as control:
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="closed the connection"):
                await control.call("PING")
        control.close()
        control.close()


def test_requests_carry_bytes_as_they_are() -> None:
    """Text, numbers and bytes that are no text."""
    assert request("SET", b"\xff\r\n", 12) == b"*3\r\n$3\r\nSET\r\n$3\r\n\xff\r\n\r\n$2\r\n12\r\n"


def test_calls_of_commands_add_up() -> None:
    """Subcommands count for their command; other lines, and counts that are no numbers, for nothing."""
    told = {
        "cmdstat_set": "calls=3,usec=4",
        "cmdstat_config|get": "calls=1,usec=2",
        "cmdstat_config|set": "calls=2,usec=2",
        "cmdstat_JSON.SET": "calls=5",
        "cmdstat_get": "calls=many",
        "errorstat_ERR": "calls=9",
    }
    assert calls_by_command(told) == {"set": 3, "config": 3, "json.set": 5, "get": 0}


def test_info_is_read() -> None:
    """Fields of a line, alternating names and values, keys by database."""
    assert parse_fields("keys=3,expires=1") == {"keys": "3", "expires": "1"}
    assert parse_pairs([b"maxmemory", b"0", b"x", b"\xff", b"y", 7]) == {"maxmemory": "0", "x": "\ufffd", "y": "7"}
    assert keys_by_database(
        {"db0": "keys=3,expires=0", "db12": "keys=1", "dbx": "keys=9", "db1": "keys=many", "role": "master"}
    ) == {
        0: 3,
        12: 1,
    }
