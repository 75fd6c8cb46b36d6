"""What a cut-over asks both servers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from portd.errors import HandshakeError, SourceLost, first_cause
from portd.groups import TaskGroup
from portd.kernel.keyspecs import KeySpecs
from portd.log import get_logger
from portd.net.commands import key_specs, writes
from portd.net.control import Refused, calls_by_command, checked, open_control, parse_info, parse_pairs
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

SECTIONS: Final = ("server", "replication", "persistence", "memory", "keyspace", "cluster")
ASKED_AT_ONCE: Final = 32  # of many: nodes, or links

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

log = get_logger("cutover")


async def together(items: Iterable[ItemT], act: Callable[[ItemT], Awaitable[ResultT]], what: str) -> list[ResultT]:
    """Does something with each of some, side by side.

    Args:
        items: of any kind.
        act: what is done.
        what: the same in a word, for the names of tasks.

    Returns:
        What came of it, in the order of the items.

    Raises:
        Exception: of the first that failed; the others are cancelled.
    """
    limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(item: ItemT) -> ResultT:
        async with limit:
            return await act(item)

    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(one(item), name=f"{what} {number}") for number, item in enumerate(items)]
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def asking(endpoint: Endpoint) -> AsyncIterator[Control]:
    """A connection for questions.

    Raises:
        SourceLost: the server does not answer.
        Refused: it does not let us in.
    """
    try:
        async with open_control(endpoint) as control:
            yield control
    except OSError as error:
        raise SourceLost(
            f"{endpoint.display} does not answer: {error or 'timeout'}", hint="check host and port"
        ) from None


async def ask_server(endpoint: Endpoint) -> dict[str, str]:
    """INFO of a server, the sections that count here.

    Raises:
        SourceLost: it does not answer.
        HandshakeError: it does not let us ask.
    """
    info: dict[str, str] = {}
    try:
        async with asking(endpoint) as control:
            for answer in await control.ask(*(request("INFO", section) for section in SECTIONS)):
                info |= parse_info(checked(answer))
    except Refused as refusal:
        raise HandshakeError(
            f"{endpoint.display} does not let us ask: {refusal.text}", hint="a cut-over needs +info at both ends"
        ) from None
    return info


async def read_setting(endpoint: Endpoint, name: str) -> dict[str, str]:
    """A setting of a server; empty where it has none of that name, or we may not ask.

    Raises:
        SourceLost: it does not answer.
    """
    try:
        async with asking(endpoint) as control:
            return parse_pairs(await control.call("CONFIG", "GET", name))
    except Refused as refusal:
        log.debug("setting is not told", name=name, reply=refusal.text)
        return {}


async def key_specs_of(endpoint: Endpoint) -> KeySpecs | None:
    """Where the keys of a server's commands stand; None where we may not ask: then what is known of all servers has to do.

    Raises:
        SourceLost: it does not answer.
    """
    try:
        async with asking(endpoint) as control:
            return KeySpecs(key_specs(await control.call("COMMAND")))
    except Refused as refusal:
        log.debug("commands are not told", reply=refusal.text)
        return None


async def write_calls(endpoint: Endpoint) -> dict[str, int] | None:
    """How often each command that writes was called at a server, by clients and their scripts; None where it does not tell.

    Keys that expire are no calls.

    Raises:
        SourceLost: it does not answer.
    """
    try:
        async with asking(endpoint) as control:
            calls = calls_by_command(parse_info(await control.call("INFO", "commandstats")))
            rows = await control.call("COMMAND", "INFO", *calls) if calls else []
    except Refused as refusal:
        log.debug("commands are not told", reply=refusal.text)
        return None
    return {name: calls[name] for name, row in zip(calls, rows, strict=True) if writes(row)}
