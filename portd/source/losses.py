"""Why a connection to the source could not be had, or ended: one word for counters, a sentence and a hint for people."""

from __future__ import annotations

import errno
import socket
import ssl
from enum import StrEnum

from portd.errors import HandshakeError, SourceBusy, SourceError, SourceLost
from portd.net.endpoint import TLS_HINT, tls_failure


class Reason(StrEnum):
    """Word under which a loss is counted in `Progress.source.losses`."""

    EOF = "eof"  # the source closed the connection
    RESET = "reset"  # it was torn down, by the source or something in between
    TIMEOUT = "timeout"  # connecting took too long, or keepalive probes were not answered
    SILENCE = "silence"  # nothing came for too long, not even the source's PING
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # no route
    NAME = "name"  # the host name does not resolve
    TLS = "tls"  # TLS failed
    BUSY = "busy"  # the source answered that it cannot serve us now
    HANDSHAKE = "handshake"  # the source refused for good
    CLOSED = "closed"  # by ourselves


# {end} is which one of the ends the server is: nearly always the source.
_SENTENCES: dict[Reason, tuple[str, str]] = {
    Reason.EOF: (
        "the {end} closed the connection",
        "see the {end}'s log; client-output-buffer-limit, repl-timeout or a restart are common reasons",
    ),
    Reason.RESET: ("the connection to the {end} was reset", "see the {end}'s log, and firewalls in between"),
    Reason.TIMEOUT: ("the {end} does not answer", "check that the host is up and that no firewall drops packets"),
    Reason.SILENCE: (
        "the {end} went silent",
        "it may hang, or packets are dropped; silence_seconds must be above its repl-ping-replica-period",
    ),
    Reason.REFUSED: ("nobody listens at the {end}'s address", "check host and port, and that the server runs"),
    Reason.UNREACHABLE: ("the {end}'s address cannot be reached", "check host, routes and firewalls"),
    Reason.NAME: ("the {end}'s host name does not resolve", "check the name, and the resolver of this machine"),
    Reason.CLOSED: ("the connection was closed", "portd itself closed it"),
}
_EARLY_END_HINT = (
    "it ended before the handshake was done: a TLS port needs rediss://, a full server (maxclients) closes too"
)

_RESET_ERRORS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)  # with a number or without


class ReceiverLost(SourceLost):
    """The connection was lost, or not had, for a reason that has a word.

    Attributes:
        reason: the word.
    """

    def __init__(self, reason: Reason, detail: str = "", *, hint: str | None = None, end: str = "source") -> None:
        sentence, usual_hint = (each.format(end=end) for each in _SENTENCES[reason])
        super().__init__(f"{sentence} ({detail})" if detail else sentence, hint=hint or usual_hint)
        self.reason = reason


def reason_of(error: BaseException | None) -> Reason:
    """The word for what ended a connection; None is an orderly end."""
    if error is None:
        return Reason.EOF
    if isinstance(error, ssl.SSLError):
        return Reason.TLS if tls_failure(error) else Reason.RESET
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    if isinstance(error, socket.gaierror):
        return Reason.NAME
    if isinstance(error, OSError):
        return _reason_of_number(error)
    return Reason.RESET


def _reason_of_number(error: OSError) -> Reason:
    if isinstance(error, _RESET_ERRORS):
        return Reason.RESET
    # asyncio joins the errors of several addresses into one without a number.
    if error.errno in {errno.ECONNREFUSED, errno.ENOENT} or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return Reason.REFUSED
    return Reason.UNREACHABLE


def connect_error(where: str, error: OSError, end: str = "source") -> SourceError:
    """What to raise when no connection to *where* came about."""
    if isinstance(error, PermissionError):
        return HandshakeError(
            f"no permission to open {where}", hint="let portd's user read and write the unix socket (unixsocketperm)"
        )
    return early_end(where, error, agreed=False, end=end)


def tls_error(where: str, error: BaseException) -> HandshakeError:
    """TLS failures stay until somebody changes a setting or a certificate."""
    return HandshakeError(f"TLS with {where} failed: {tls_failure(error)}", hint=TLS_HINT)


def early_end(where: str, error: BaseException | None, *, agreed: bool, end: str = "source") -> SourceError:
    """What to raise when the connection ended within the handshake; *agreed*: on a full sync, whose snapshot was waited for."""
    reason = reason_of(error)
    if reason is Reason.TLS and error is not None:
        return tls_error(where, error)
    if agreed:
        return SourceBusy(
            f"the {end} gave up the snapshot it was making ({where})",
            hint="another replica that left takes a snapshot with it, and a fork may fail: its log tells",
        )
    hint = _EARLY_END_HINT if reason in {Reason.EOF, Reason.RESET} else None
    return ReceiverLost(reason, where, hint=hint, end=end)
