"""What a cut-over asks both servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.errors import HandshakeError, SourceLost
from portd.kernel.keyspecs import KeySpecs
from portd.log import get_logger
from portd.net.commands import key_specs
from portd.net.control import Refused, checked, open_control, parse_info, parse_pairs
from portd.net.resp import request

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint

SECTIONS: Final = ("server", "replication", "persistence", "memory", "keyspace", "cluster")

log = get_logger("cutover")


async def ask_server(endpoint: Endpoint) -> dict[str, str]:
    """INFO of a server, the sections that count here.

    Raises:
        SourceLost: it does not answer.
        HandshakeError: it does not let us ask.
    """
    info: dict[str, str] = {}
    try:
        async with open_control(endpoint) as control:
            for answer in await control.ask(*(request("INFO", section) for section in SECTIONS)):
                info |= parse_info(checked(answer))
    except Refused as refusal:
        raise HandshakeError(
            f"{endpoint.display} does not let us ask: {refusal.text}", hint="a cut-over needs +info at both ends"
        ) from None
    except OSError as error:
        raise SourceLost(
            f"{endpoint.display} does not answer: {error or 'timeout'}", hint="check host and port"
        ) from None
    return info


async def read_setting(endpoint: Endpoint, name: str) -> dict[str, str]:
    """A setting of a server; empty where it has none of that name, or we may not ask.

    Raises:
        SourceLost: it does not answer.
    """
    try:
        async with open_control(endpoint) as control:
            return parse_pairs(await control.call("CONFIG", "GET", name))
    except Refused as refusal:
        log.debug("setting is not told", name=name, reply=refusal.text)
        return {}
    except OSError as error:
        raise SourceLost(
            f"{endpoint.display} does not answer: {error or 'timeout'}", hint="check host and port"
        ) from None


async def key_specs_of(endpoint: Endpoint) -> KeySpecs | None:
    """Where the keys of a server's commands stand; None where we may not ask: then what is known of all servers has to do.

    Raises:
        SourceLost: it does not answer.
    """
    try:
        async with open_control(endpoint) as control:
            return KeySpecs(key_specs(await control.call("COMMAND")))
    except Refused as refusal:
        log.debug("commands are not told", reply=refusal.text)
        return None
    except OSError as error:
        raise SourceLost(
            f"{endpoint.display} does not answer: {error or 'timeout'}", hint="check host and port"
        ) from None
