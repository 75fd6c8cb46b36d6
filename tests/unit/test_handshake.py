"""The handshake with a source, reply by reply, without sockets."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.errors import HandshakeError, InternalError, PortdError, SourceBusy, SourceError
from portd.model import Position
from portd.net.endpoint import Endpoint
from portd.net.resp import request
from portd.source.handshake import LINE_BYTES, Handshake, HandshakeOptions, State, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPLID = "8d31f0a6c09e6a6ddc1f8ed1b6d8e0f4f4a8f1c2"
OTHER = "0123456789abcdef0123456789abcdef01234567"
MARK = b"f" * 40
POSITION = Position(OTHER, 1000)
HELLO = [b"+PONG\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"]
FULL = b"+FULLRESYNC %s 77\r\n" % REPLID.encode()
SECRET = "hunter2"


def talk(
    replies: Sequence[bytes],
    *,
    password: str | None = None,
    position: Position | None = None,
    options: HandshakeOptions | None = None,
    cut: Callable[[bytes], list[bytes]] = lambda reply: [reply],
) -> tuple[Handshake, list[bytes]]:
    """Runs a handshake against prepared replies; returns it with what it sent."""
    auth = Endpoint(username="repl" if password else None, password=password).auth_command()
    handshake = Handshake(auth, position, options)
    sent = [handshake.begin()]
    for reply in replies:
        for piece in cut(reply):
            answer = handshake.feed(piece)
            if answer:
                sent.append(answer)
    return handshake, sent


def test_full_sync_word_by_word() -> None:
    """The requests and their order are what a replica sends, one at a time."""
    handshake, sent = talk([*HELLO[:1], b"+OK\r\n", *HELLO[1:], FULL, b"$EOF:%s\r\n" % MARK], password=SECRET)
    assert sent == [
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nrepl\r\n$7\r\nhunter2\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$1\r\n0\r\n",
        b"*5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$7\r\nversion\r\n$5\r\n9.1.0\r\n",
        b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
    ]
    assert handshake.transfer == Transfer(full=True, position=Position(REPLID, 77), mark=MARK)
    assert handshake.state is State.DONE


def test_disk_based_transfer() -> None:
    """`$<length>` announces the size."""
    handshake, _ = talk([*HELLO, FULL, b"\n\n\n", b"$123456\r\nREDIS"])
    assert handshake.transfer == Transfer(full=True, position=Position(REPLID, 77), length=123456)
    assert handshake.rest() == b"REDIS"


@pytest.mark.parametrize(
    ("reply", "replid"),
    [(b"+CONTINUE\r\n", OTHER), (b"+CONTINUE %s\r\n" % REPLID.encode(), REPLID)],
    ids=["same id", "new id"],
)
def test_partial_resync(reply: bytes, replid: str) -> None:
    """PSYNC asks for the byte behind the position; a new replid is adopted, the offset stays."""
    handshake, sent = talk([*HELLO, reply + b"*1\r\n"], position=POSITION)
    assert sent[-1] == request("PSYNC", OTHER, "1001")
    assert handshake.transfer == Transfer(full=False, position=Position(replid, 1000))
    assert handshake.rest() == b"*1\r\n"
    assert handshake.rest() == b""


def test_full_sync_instead_of_a_partial_one() -> None:
    """The source decides: a full sync may be the answer to any position."""
    handshake, _ = talk([*HELLO, FULL, b"$5\r\n"], position=POSITION)
    assert handshake.transfer == Transfer(full=True, position=Position(REPLID, 77), length=5)


@given(cuts=st.lists(st.integers(1, 7), min_size=1), newlines=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_any_split_and_newlines_anywhere(cuts: list[int], newlines: list[int]) -> None:
    """Replies may come byte by byte, with signs of life between them."""

    def cut(reply: bytes) -> list[bytes]:
        pieces = []
        for turn in range(len(reply)):
            size = cuts[turn % len(cuts)]
            pieces.append(reply[:size])
            reply = reply[size:]
        return [piece for piece in pieces if piece]

    replies = [*HELLO, FULL, b"$EOF:%s\r\n" % MARK]
    noisy = [b"\n" * count + reply for count, reply in zip(newlines, replies, strict=True)]
    handshake, sent = talk(noisy, cut=cut)
    assert len(sent) == 5
    assert handshake.transfer == Transfer(full=True, position=Position(REPLID, 77), mark=MARK)
    assert handshake.rest() == b""


def test_renamed_psync_acts_as_sync() -> None:
    """A snapshot without a word about the position is taken, and the caller can tell."""
    for header in (b"$EOF:%s\r\n" % MARK, b"$5\r\n"):
        handshake, _ = talk([*HELLO, header], position=POSITION, options=HandshakeOptions(psync_command="other"))
        assert handshake.transfer is not None
        assert handshake.transfer.full
        assert not handshake.transfer.announced


def test_first_bytes_of_the_snapshot_are_kept() -> None:
    """What comes in the same read as the header belongs to the snapshot, newlines included."""
    handshake, _ = talk([*HELLO, FULL, b"$EOF:%s\r\n\nREDIS0011" % MARK])
    assert handshake.rest() == b"\nREDIS0011"
    with pytest.raises(InternalError):
        handshake.feed(b"x")


def test_old_sources_know_less() -> None:
    """REPLCONF options that a source does not know are done without."""
    unknown = b"-ERR Unrecognized REPLCONF option: version\r\n"
    handshake, _ = talk([b"+PONG\r\n", b"-ERR whatever\r\n", unknown, unknown, FULL, b"$5\r\n"])
    assert handshake.transfer is not None
    assert handshake.accepted == {"PING"}


def test_options_are_offered_and_may_be_refused() -> None:
    """Extra wishes are sent when set, and the caller can see which ones the source took."""
    options = HandshakeOptions(
        psync_command="p-123", listening_port=6380, rdb_only=True, no_compression=True, no_checksum=True
    )
    replies = [*HELLO, b"+OK\r\n", b"-ERR Unrecognized\r\n", b"-ERR Unrecognized\r\n", FULL, b"$5\r\n"]
    handshake, sent = talk(replies, options=options)
    assert sent[1] == request("REPLCONF", "listening-port", "6380")
    assert sent[4:7] == [
        request("REPLCONF", "rdb-only", "1"),
        request("REPLCONF", "rdb-no-compress", "1"),
        request("REPLCONF", "rdb-no-checksum", "1"),
    ]
    assert sent[7] == request("p-123", "?", "-1")
    assert "REPLCONF rdb-only" in handshake.accepted
    assert "REPLCONF rdb-no-compress" not in handshake.accepted


def test_ping_may_be_forbidden() -> None:
    """A source that wants AUTH first, or forbids PING, is not given up."""
    for reply in (b"-NOAUTH Authentication required.\r\n", b"-NOPERM no ping\r\n", b"-ERR operation not permitted\r\n"):
        handshake, _ = talk([reply, b"+OK\r\n", *HELLO[1:], FULL, b"$5\r\n"], password=SECRET)
        assert handshake.transfer is not None


BUSY = {
    "loading": (0, b"-LOADING Redis is loading the dataset in memory"),
    "loading at psync": (4, b"-LOADING Valkey is loading"),
    "no link": (4, b"-NOMASTERLINK Can't SYNC while not connected with my master"),
    "no link, old": (4, b"-ERR Can't SYNC while not connected with my master"),
    "stale": (0, b"-MASTERDOWN Receiver with MASTER is down and replica-serve-stale-data is set to 'no'."),
    "script": (4, b"-BUSY Redis is busy running a script."),
    "clients": (0, b"-ERR max number of clients reached"),
    "fork": (5, b"-ERR BGSAVE failed, replication can't continue"),
}


@pytest.mark.parametrize("name", BUSY)
def test_what_passes_is_retriable(name: str) -> None:
    """States that end by themselves are told apart from refusals, and the operator hears what to look at."""
    after, reply = BUSY[name]
    with pytest.raises(SourceBusy) as caught:
        talk([*[*HELLO, FULL][:after], reply + b"\r\n"])
    assert caught.value.retriable
    assert caught.value.hint


REFUSED = {
    "password missing": (0, b"-NOAUTH Authentication required.", "source_password"),
    "password missing, old": (0, b"-ERR operation not permitted", "source_password"),
    "password missing later": (4, b"-NOAUTH Authentication required.", "source_password"),
    "acl replconf": (1, b"-NOPERM this user has no permissions to run the 'replconf' command", "+replconf +psync"),
    "acl psync": (4, b"-NOPERM this user has no permissions to run the 'psync' command", "+ping +replconf +psync"),
    "protected": (0, b"-DENIED Redis is running in protected mode because ...", "trusted address"),
    "renamed": (4, b"-ERR unknown command 'PSYNC', with args beginning with: '?' '-1'", "psync_command"),
    "no replication": (1, b"-ERR unknown command `REPLCONF`, with args beginning with:", "Redis 2.8"),
    "other": (4, b"-ERR something new", "log"),
    "odd code": (4, b"-WEIRD", "log"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_do(name: str) -> None:
    """Every refusal for good names the command and carries a hint."""
    after, reply, words = REFUSED[name]
    with pytest.raises(HandshakeError) as caught:
        talk([*HELLO[:after], reply + b"\r\n"])
    assert not caught.value.retriable
    assert words in (caught.value.hint or "")


@pytest.mark.parametrize("name", [*BUSY, *REFUSED])
def test_what_the_target_refuses_is_said_of_the_target(name: str) -> None:
    """Who reads both ends by PSYNC hears which of them it is, and which setting has its password."""
    after, reply = (BUSY | {each: found[:2] for each, found in REFUSED.items()})[name]
    with pytest.raises(SourceError) as caught:
        talk([*[*HELLO, FULL][:after], reply + b"\r\n"], options=HandshakeOptions(end="target"))
    assert "target" in str(caught.value)
    assert "source" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.", "check user and password"),
        (b"-ERR invalid password", "check user and password"),
        (b"-ERR Client sent AUTH, but no password is set", "leave source_password out"),
        (b"-ERR AUTH <password> called without any password configured for the default user.", "leave source_password"),
        (b"-ERR wrong number of arguments for 'auth' command", "older than Redis 6"),
        (b"-ERR unknown command 'AUTH', with args beginning with: 'repl' 'hunter2'", "renamed"),
        (b"+hunter2 is not what I expected" + b"x" * LINE_BYTES, "host and port"),
        (b"hunter2", "host and port"),
    ],
)
def test_the_password_is_never_repeated(reply: bytes, words: str) -> None:
    """Whatever the source answers to AUTH, the password stays out of messages and reprs."""
    with pytest.raises(HandshakeError) as caught:
        talk([b"+PONG\r\n", reply + b"\r\n"], password=SECRET)
    assert words in str(caught.value)
    assert SECRET not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    "replies",
    [
        [b"HTTP/1.1 400 Bad Request\r\n"],
        [b"\x15\x03\x03\x00\x02\x02\x50"],  # a TLS alert
        [b"+PONG\r\n", b"$5\r\n"],
        [*HELLO, b"+CONTINUE\r\n"],  # nothing was asked to be continued
        [*HELLO, b"+OK\r\n"],
        [*HELLO, b"+FULLRESYNC short 1\r\n"],
        [*HELLO, b"+FULLRESYNC %s -1\r\n" % REPLID.encode()],
        [*HELLO, b"+FULLRESYNC %s 9999999999999999999999\r\n" % REPLID.encode()],
        [*HELLO, b"+DUALCHANNELSYNC\r\n"],
        [*HELLO, FULL, b"$-1\r\n"],
        [*HELLO, FULL, b"$99999999999999999999999\r\n"],
        [*HELLO, FULL, b"$EOF:short\r\n"],
        [*HELLO, FULL, b"+OK\r\n"],
        [b"+" + b"x" * LINE_BYTES],
        [b"\r\n"],
    ],
    ids=repr,
)
def test_what_is_no_redis_is_named(replies: list[bytes]) -> None:
    """Lines that no source sends end the handshake at once, without holding more than a line."""
    with pytest.raises(HandshakeError, match="no valid answer"):
        talk(replies)


@given(data=st.binary(max_size=200), after=st.integers(0, 5))
def test_noise_never_crashes(data: bytes, after: int) -> None:
    """Arbitrary bytes lead to a typed error, to a transfer, or to waiting for more."""
    handshake, _ = talk([*HELLO, FULL][:after])
    with contextlib.suppress(PortdError):
        handshake.feed(data)
