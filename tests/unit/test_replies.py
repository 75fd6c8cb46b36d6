"""The compiled reply counter: what is counted, noted, kept and refused."""

from __future__ import annotations

import tracemalloc

import pytest

from portd.errors import TargetError
from portd.kernel.replies import MAX_DEPTH, MAX_ELEMENT_NOTES, MAX_LINE, MAX_TEXT, Note, ReplyCounter

STEPS = [1, 2, 3, 7, 100_000]


def feed(counter: ReplyCounter, data: bytes, step: int) -> int:
    """Feeds *data* in steps; what ``feed`` says, added up."""
    return sum(counter.feed(data[at : at + step]) for at in range(0, len(data), step))


def fed(data: bytes, step: int = 100_000, want: tuple[int, ...] = ()) -> ReplyCounter:
    """A counter that was fed *data* in steps; what ``feed`` says adds up to ``replies``."""
    counter = ReplyCounter()
    for reply in want:
        counter.want(reply)
    assert feed(counter, data, step) == counter.replies
    return counter


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (b"", 0),
        (b"+OK\r\n" * 50, 50),
        (b"+QUEUED\r\n" * 50, 50),
        (b"+OKAY\r\n+QUEUEDX\r\n+\r\n+O\r\n", 4),
        (b":0\r\n:-1\r\n:9223372036854775807\r\n:-9223372036854775808\r\n", 4),
        (b"$0\r\n\r\n$5\r\n\r\n-E\r\r\n$-1\r\n", 3),
        (b"*0\r\n*-1\r\n*1\r\n*0\r\n*2\r\n:1\r\n$1\r\nx\r\n", 4),
        (b"*2\r\n*2\r\n*1\r\n:1\r\n+a\r\n*-1\r\n+OK\r\n", 2),
        (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n+OK\r\n", 4),
        (b"*3\r\n+OK\r\n+OK\r\n", 0),
        (b"$3\r\nab", 0),
        (b"+OK\r", 0),
    ],
)
def test_counts_complete_top_level_replies(data: bytes, replies: int, step: int) -> None:
    """A reply counts once its last byte is there, however the bytes are cut; elements do not count."""
    assert fed(data, step).replies == replies


@pytest.mark.parametrize("step", STEPS)
def test_errors_and_nils_are_noted_with_their_place(step: int) -> None:
    """An error names its reply, and the element when it lies in an array; so does a nil that stands alone."""
    data = b"+OK\r\n-OOM no\r\n*4\r\n+OK\r\n-WRONGTYPE bad\r\n$-1\r\n*2\r\n:1\r\n-ERR deep\r\n*-1\r\n$-1\r\n-\xff\r\n"
    assert list(fed(data, step).notes) == [
        Note(1, -1, "OOM no"),
        Note(2, 1, "WRONGTYPE bad"),
        Note(2, 3, "ERR deep"),
        Note(3, -1, None),
        Note(4, -1, None),
        Note(5, -1, "\\xff"),
    ]


@pytest.mark.parametrize("step", STEPS)
def test_wanted_values_are_kept(step: int) -> None:
    """A wanted reply is kept: integer, line, bulk string, nil, an array's length; an error is only noted."""
    data = b":1\r\n:-7\r\n+OK\r\n$4\r\na\r\nb\r\n$-1\r\n*3\r\n:1\r\n:2\r\n:3\r\n*-1\r\n-ERR x\r\n$0\r\n\r\n:1\r\n"
    counter = fed(data, step, want=tuple(range(1, 9)))
    assert counter.values == {1: -7, 2: b"OK", 3: b"a\r\nb", 4: None, 5: 3, 6: None, 8: b""}
    assert counter.statistics()["wanted"] == 0


def test_a_run_stops_at_what_is_wanted() -> None:
    """The fast path does not run over a reply that was asked for."""
    counter = fed(b"+OK\r\n" * 10 + b":5\r\n" + b"+OK\r\n" * 10, want=(10, 15))
    assert counter.values == {10: 5, 15: b"OK"}
    assert counter.replies == 21


def test_what_has_come_cannot_be_wanted() -> None:
    """Wanting what is past, or out of order, is a mistake of the caller's."""
    counter = fed(b"+OK\r\n")
    with pytest.raises(ValueError, match="reply 0"):
        counter.want(0)
    counter.want(3)
    with pytest.raises(ValueError, match="reply 3"):
        counter.want(3)


def test_what_it_remembers_is_bounded() -> None:
    """Errors of one array, the text of an error and skipped values take bounded memory, and lose no count."""
    tracemalloc.start()
    try:
        counter = ReplyCounter()
        counter.feed(b"*200000\r\n")
        for _ in range(200):
            counter.feed(b"-ERR x\r\n" * 1000)
        assert (counter.replies, len(counter.notes), counter.unnoted) == (
            1,
            MAX_ELEMENT_NOTES,
            200_000 - MAX_ELEMENT_NOTES,
        )
        counter.unnoted = 0  # as who reads it does
        assert counter.unnoted == 0
        counter.notes.clear()
        counter.feed(b"-" + b"x" * 60_000)
        counter.feed(b"\r\n$1000000000\r\n")
        assert counter.notes.pop().text == "x" * MAX_TEXT
        block = b"x" * 1_000_000
        for _ in range(1000):
            counter.feed(block)
        assert counter.feed(b"\r\n") == 1
        assert counter.statistics()["owned_bytes"] <= MAX_LINE
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"+OK\n",
        b":\r\n",
        b":1x\r\n",
        b":9223372036854775808\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$1\r\nab\r\n",
        b"$1\r\na\rx",
        b"$99999999999999999999\r\n",
        b"$9223372036854775807\r\n",
        b"*-2\r\n",
        b"*1\r\n" * (MAX_DEPTH + 1),
        b"+" + b"x" * MAX_LINE + b"\r\n",
        b"-" + b"x" * MAX_LINE + b"\r\n",
        b"_\r\n",
        b"%1\r\n+a\r\n+b\r\n",
    ],
    ids=lambda data: repr(data[:14]) if isinstance(data, bytes) else None,
)
def test_what_is_not_resp2_is_an_error_that_stays(data: bytes, step: int) -> None:
    """Bytes that are no replies end in a TargetError with a hint, now and at every later call; earlier replies count."""
    counter = ReplyCounter()
    counter.feed(b"+OK\r\n")
    with pytest.raises(TargetError, match="does not speak RESP") as caught:
        feed(counter, data, step)
    assert caught.value.hint
    assert counter.replies == 1
    with pytest.raises(TargetError):
        counter.feed(b"+OK\r\n")


def test_an_absurd_wanted_value_is_refused() -> None:
    """Nothing that was asked for is longer than a line."""
    with pytest.raises(TargetError, match="longer than anything"):
        fed(b"$%d\r\n" % (MAX_LINE + 1), want=(0,))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    """Bytes come as the transport has them."""
    counter = ReplyCounter()
    assert counter.feed(kind(b"")) == 0
    assert counter.feed(kind(b"+OK\r\n:1\r\n")) == 2
    with pytest.raises((TypeError, BufferError)):
        counter.feed("+OK\r\n")  # type: ignore[arg-type]
