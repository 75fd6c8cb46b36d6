"""What a cut-over asks both servers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from portd.errors import HandshakeError, SourceLost
from portd.kernel.keyspecs import KeySpecs
from portd.log import get_logger
from portd.net.commands import key_specs, writes
from portd.net.control import Refused, calls_by_command, checked, open_control, parse_info, parse_pairs
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

SECTIONS: Final = ("server", "replication", "persistence", "memory", "keyspace", "cluster")

log = get_logger("cutover")


@asynccontextmanager
async def _asking(endpoint: Endpoint) -> AsyncIterator[Control]:
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
        async with _asking(endpoint) as control:
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
        async with _asking(endpoint) as control:
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
        async with _asking(endpoint) as control:
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
        async with _asking(endpoint) as control:
            calls = calls_by_command(parse_info(await control.call("INFO", "commandstats")))
            rows = await control.call("COMMAND", "INFO", *calls) if calls else []
    except Refused as refusal:
        log.debug("commands are not told", reply=refusal.text)
        return None
    return {name: calls[name] for name, row in zip(calls, rows, strict=True) if writes(row)}
