"""The small parts of the source's side: reasons of loss, backoff, and what INFO says."""

from __future__ import annotations

import errno
import random
import socket
import ssl

import pytest

from portd.errors import HandshakeError
from portd.net.backoff import Backoff
from portd.net.control import parse_info
from portd.source.info import OutputLimit, parse_output_limit
from portd.source.losses import Reason, ReceiverLost, connect_error, early_end, reason_of

ADDRESS = "redis://h:1"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, Reason.EOF),
        (ConnectionResetError(errno.ECONNRESET, "x"), Reason.RESET),
        (BrokenPipeError(errno.EPIPE, "x"), Reason.RESET),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Reason.REFUSED),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect"), Reason.REFUSED),
        (FileNotFoundError(errno.ENOENT, "x"), Reason.REFUSED),
        (TimeoutError(), Reason.TIMEOUT),
        (TimeoutError(errno.ETIMEDOUT, "keepalive"), Reason.TIMEOUT),
        (OSError(errno.EHOSTUNREACH, "x"), Reason.UNREACHABLE),
        (socket.gaierror(socket.EAI_NONAME, "x"), Reason.NAME),
        (ssl.SSLError(1, "x"), Reason.TLS),
        (RuntimeError(), Reason.RESET),
    ],
)
def test_every_end_has_a_word(error: BaseException | None, reason: Reason) -> None:
    """What ended a connection is counted under a stable word."""
    assert reason_of(error) is reason


@pytest.mark.parametrize(
    "reason", [reason for reason in Reason if reason not in {Reason.TLS, Reason.HANDSHAKE, Reason.BUSY}]
)
def test_every_loss_says_what_to_do(reason: Reason) -> None:
    """A loss names the address and carries a hint, and may be tried again."""
    error = ReceiverLost(reason, ADDRESS)
    assert ADDRESS in str(error)
    assert error.hint
    assert error.retriable
    assert error.reason is reason
    assert "source" not in str(ReceiverLost(reason, ADDRESS, end="target"))


def test_what_trying_again_does_not_change() -> None:
    """TLS failures and a socket that may not be opened stay until somebody changes something."""
    for error in (ssl.SSLCertVerificationError(1, "x"), PermissionError(errno.EACCES, "x")):
        assert isinstance(connect_error(ADDRESS, error), HandshakeError)
    assert isinstance(early_end(ADDRESS, ssl.SSLError(1, "x"), agreed=False), HandshakeError)
    assert isinstance(early_end(ADDRESS, None, agreed=False), ReceiverLost)


def test_backoff_doubles_up_to_its_limit() -> None:
    """Waits grow, stay below the limit, differ between instances, and start over after a success."""
    plain = Backoff(0.5, 10.0, jitter=0.0)
    assert [plain.next_wait() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert plain.attempts == 7
    plain.reset()
    assert plain.next_wait() == 0.5
    one, other = (Backoff(chance=random.Random(seed)) for seed in (1, 2))
    waits = [(one.next_wait(), other.next_wait()) for _ in range(2000)]
    assert all(15.0 <= wait <= 30.0 for pair in waits[10:] for wait in pair)
    assert waits[0][0] != waits[0][1]


def test_info_lines() -> None:
    """INFO is read line by line; modules repeat."""
    text = b"# Server\r\nredis_version:7.0.15\r\nexecutable:/a:b\r\n\r\nmodule:name=a,ver=1\r\nmodule:name=b,ver=2\r\nnoise\r\n"
    assert parse_info(text) == {
        "redis_version": "7.0.15",
        "executable": "/a:b",
        "module": "name=a,ver=1 name=b,ver=2",
    }


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", OutputLimit(268435456, 67108864, 60)),
        ("replica 1 2 3", OutputLimit(1, 2, 3)),
        ("slave 1 2", None),
        ("slave a b c", None),
        ("", None),
    ],
)
def test_output_limit(text: str, limit: OutputLimit | None) -> None:
    """Servers still call the class slave."""
    assert parse_output_limit(text) == limit
