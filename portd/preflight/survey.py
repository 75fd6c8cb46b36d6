"""Asks one end everything that a check wants to know. What is refused is noted, not fatal: each rule copes without."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from portd.errors import ConfigError
from portd.net.control import Refused, checked, keys_by_database, open_control, parse_info, parse_pairs
from portd.net.endpoint import TLS_HINT, tls_failure
from portd.net.identity import ServerIdentity
from portd.net.resp import request
from portd.net.shapes import whole
from portd.source.cluster import QUESTION, is_node
from portd.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

BUILT_IN = frozenset({"lua"})  # Valkey 9.1 shows its script engine as a module

_SETTINGS = (
    "client-output-buffer-limit",
    "repl-backlog-size",
    "repl-timeout",
    "repl-diskless-sync",
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "databases",
    "min-replicas-to-write",
    "stop-writes-on-bgsave-error",
    "replica-announce-ip",
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one end said.

    Attributes:
        info: fields of INFO; empty where it is refused.
        config: settings as CONFIG GET tells them; empty where it is refused.
        refused: commands we may not run, upper case.
        clock_ahead: seconds that the end's clock is ahead of ours; None when TIME is refused.
        clock_error: seconds by which that may be wrong: half of the round trip.
        cluster: it is a node of a cluster; None when that is not told.
        user: who we are there; None when that is not told.
        certificate_days: until the TLS certificate expires; None without TLS or when it is not verified.
        tls_version: such as TLSv1.3; None without TLS.
    """

    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    clock_ahead: float | None = None
    clock_error: float = 0.0
    cluster: bool | None = None
    user: str | None = None
    certificate_days: float | None = None
    tls_version: str | None = None

    def number(self, name: str) -> int | None:
        """A field of INFO, or else a setting, as a number; None when it is not told."""
        text = self.info.get(name, self.config.get(name, ""))
        number = whole(text.removeprefix("-"))
        return -number if number and text.startswith("-") else number

    @property
    def identity(self) -> ServerIdentity:
        """Who it says it is."""
        return ServerIdentity.of(self.info)

    @property
    def modules(self) -> frozenset[str]:
        """Names of loaded modules that may bring types or commands."""
        return frozenset(self.identity.modules) - BUILT_IN

    @property
    def keys(self) -> dict[int, int]:
        """Keys by database."""
        return keys_by_database(self.info)


class Unreachable(Exception):
    """An end could not be surveyed.

    Attributes:
        refused: it answered, but does not let us in.
        hint: what to do, where it is not about credentials.
    """

    def __init__(self, reason: str, *, refused: bool = False, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint
        self.refused = refused


async def survey(endpoint: Endpoint) -> Survey:
    """Asks one end.

    Raises:
        Unreachable: it cannot be reached, or does not let us in.
        ConfigError: a TLS file cannot be used.
    """
    certificate_days, tls_version = await _dial(endpoint)
    try:
        async with open_control(endpoint) as control:
            found = await _ask_all(_Asker(control))
    except Refused as refusal:
        if refusal.text.startswith("LOADING"):
            raise Unreachable("it is still loading its data") from None
        wants = "it wants a password" if endpoint.auth_command() is None else f"it refuses the credentials: {refusal}"
        raise Unreachable(wants, refused=True) from None
    except OSError as error:
        raise _unreachable(error) from None
    return replace(found, certificate_days=certificate_days, tls_version=tls_version)


async def _ask_all(asker: _Asker) -> Survey:
    info = parse_info(await asker.ask("INFO") or b"")
    info |= parse_info(await asker.ask("INFO", "modules") or b"") if info else {}
    config: dict[str, str] = {}
    for name in _SETTINGS:
        reply = await asker.ask("CONFIG", "GET", name)
        if reply is None:
            break
        config |= parse_pairs(reply)
    ahead, uncertain = await _clock(asker)
    user = await asker.ask("ACL", "WHOAMI") if info else None
    node = is_node(info, None if info else await asker.answer(QUESTION))
    return Survey(
        info=info,
        config=config,
        refused=frozenset(asker.refused),
        clock_ahead=ahead,
        clock_error=uncertain,
        cluster=node,
        user=user.decode("utf-8", "replace") if user else None,
    )


class _Asker:
    """Asks, and remembers what it may not ask."""

    def __init__(self, control: Control) -> None:
        self.refused: set[str] = set()
        self._control = control

    async def ask(self, *words: str) -> Any:
        """The reply; None where the command is refused."""
        try:
            return await self._control.call(*words)
        except Refused as refusal:
            if refusal.login or refusal.text.startswith("LOADING"):
                raise
            if "operation not permitted" in refusal.text.lower():  # redis before 2.8
                raise Unreachable("it wants a password", refused=True) from None
            self.refused.add(" ".join(words[:2] if words[0] in {"CONFIG", "ACL"} else words[:1]))
            return None

    async def answer(self, question: bytes) -> object:
        """The reply to a question of which nothing is said when it is refused."""
        (reply,) = await self._control.ask(question)
        return reply


async def _dial(endpoint: Endpoint) -> tuple[float | None, str | None]:
    """Opens and closes a connection: whether that works, and what TLS says."""
    try:
        transport, _ = await endpoint.connect(asyncio.Protocol, timeout=endpoint.connect_seconds)
    except ConfigError:
        raise
    except TimeoutError:
        raise Unreachable(f"no connection within {human_seconds(endpoint.connect_seconds)}") from None
    except OSError as error:
        raise _unreachable(error) from None
    try:
        secure = transport.get_extra_info("ssl_object")
        if secure is None:
            return None, None
        return _days_left(secure.getpeercert()), secure.version()
    except ValueError:  # it has ended already; the first question tells why
        return None, None
    finally:
        transport.abort()


def _unreachable(error: OSError) -> Unreachable:
    if why := tls_failure(error):
        return Unreachable(f"TLS failed: {why}", refused=True, hint=TLS_HINT)
    return Unreachable(error.strerror or str(error) or type(error).__name__)


def _days_left(certificate: Mapping[str, Any] | None) -> float | None:
    import ssl  # noqa: PLC0415 - only with TLS

    until = (certificate or {}).get("notAfter")
    return None if until is None else (ssl.cert_time_to_seconds(until) - time.time()) / 86400


async def _clock(asker: _Asker) -> tuple[float | None, float]:
    """How far its clock is ahead of ours, and by how much that may be wrong; the best of three."""
    best: tuple[float | None, float] = (None, 0.0)
    for _ in range(3):
        before, started = time.time(), time.perf_counter()
        reply = await asker.ask("TIME")
        if reply is None:
            return None, 0.0
        half = (time.perf_counter() - started) / 2
        ahead = int(reply[0]) + int(reply[1]) / 1e6 - (before + half)
        if best[0] is None or half < best[1]:
            best = (ahead, half)
    return best


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a source is written to.

    Attributes:
        per_second: bytes of replication stream.
        exact: measured in the stream itself; otherwise an upper bound: all that clients send, reads included.
    """

    per_second: float
    exact: bool

    def __str__(self) -> str:
        return f"{'' if self.exact else 'at most '}{human_bytes(self.per_second)}/s"


async def write_rate(endpoint: Endpoint, seconds: float) -> Rate | None:
    """How fast the source is written to, sampled over *seconds*; None where that cannot be told.

    `master_repl_offset` stands still on a source that never had a replica; then the bytes from all clients are taken.
    """
    readings = []
    try:
        async with open_control(endpoint) as control:
            for pause in (0.0, seconds):
                await asyncio.sleep(pause)  # the rate is what happens meanwhile
                answers = await control.ask(request("INFO", "replication"), request("INFO", "stats"))
                info = parse_info(b"\n".join(map(checked, answers)))
                readings.append((time.perf_counter(), info))
    except (Refused, OSError):
        return None
    (began, first), (ended, last) = readings
    exact = first.get("repl_backlog_active") == last.get("repl_backlog_active") == "1"
    name = "master_repl_offset" if exact else "total_net_input_bytes"
    before, after = whole(first.get(name, "")), whole(last.get(name, ""))
    if before is None or after is None:
        return None
    return Rate(max(0.0, (after - before) / max(ended - began, 1e-3)), exact)
