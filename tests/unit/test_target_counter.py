"""The reply counter against hiredis: any replies, any split of the bytes."""

from __future__ import annotations

import random  # noqa: TC003 - hypothesis reads the annotation
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.target.counter import MAX_ELEMENT_NOTES, MAX_LINE, Note, ReplyCounter, ReplyFormatError

LINE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20).map(str.encode)


def _bulk(body: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(body), body)


SIMPLE = st.one_of(
    st.sampled_from([b"+OK\r\n", b"+QUEUED\r\n", b":1\r\n", b":-7\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]),
    LINE.map(lambda text: b"+" + text + b"\r\n"),
    LINE.map(lambda text: b"-ERR " + text + b"\r\n"),
    st.binary(max_size=30).map(_bulk),
    st.sampled_from([b"\n-\r\n", b"\n$5\r\n", b"\r\n*1\r\n"]).map(_bulk),
)
REPLY = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=6).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items))
)


def _expected(stream: bytes) -> tuple[int, list[tuple[int, int, bool]]]:
    """Number of replies and where errors and nils are, as hiredis sees them."""
    reader = hiredis.Reader()
    reader.feed(stream)
    count, notes = 0, []

    def inside(value: Any, reply: int, element: int) -> None:
        if isinstance(value, hiredis.ReplyError):
            notes.append((reply, element, True))
        elif isinstance(value, list):
            for item in value:
                inside(item, reply, element)

    while (reply := reader.gets()) is not False:
        if isinstance(reply, list):
            for index, item in enumerate(reply):
                inside(item, count, index)
        elif reply is None or isinstance(reply, hiredis.ReplyError):
            notes.append((count, -1, reply is not None))
        count += 1
    return count, notes


def _found(counter: ReplyCounter) -> list[tuple[int, int, bool]]:
    return [(note.reply, note.element, note.text is not None) for note in counter.notes]


@settings(max_examples=60, deadline=None)
@given(st.lists(REPLY, max_size=20), st.integers(1, 40), st.randoms(use_true_random=False))
def test_counts_what_hiredis_counts(replies: list[bytes], step: int, rng: random.Random) -> None:
    """Replies, errors and nils are the same as hiredis finds, however the bytes are cut."""
    stream = b"".join(replies)
    expected = _expected(stream)
    for cuts in ([len(stream)], [1] * len(stream), [rng.randint(1, step) for _ in range(len(stream))]):
        counter, position = ReplyCounter(), 0
        for size in cuts:
            counter.feed(stream[position : position + size])
            position += size
        assert (counter.replies, _found(counter)) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(REPLY, min_size=1, max_size=12), st.integers(1, 40), st.data())
def test_keeps_the_values_that_are_wanted(replies: list[bytes], step: int, data: st.DataObject) -> None:
    """A wanted reply is kept as hiredis reads it (an array as its length), whatever is around it."""
    stream = b"".join(replies)
    wanted = sorted(data.draw(st.sets(st.integers(0, len(replies) - 1))))
    counter = ReplyCounter()
    for index in wanted:
        counter.want(index)
    for position in range(0, len(stream), step):
        counter.feed(stream[position : position + step])
    reader = hiredis.Reader()
    reader.feed(stream)
    answers = [reader.gets() for _ in replies]
    expected = {
        index: len(answers[index]) if isinstance(answers[index], list) else answers[index]
        for index in wanted
        if not isinstance(answers[index], hiredis.ReplyError)
    }
    assert counter.values == expected


def test_errors_carry_their_text_and_place() -> None:
    """An error inside the array of EXEC names the element; one in the line of replies names the reply."""
    counter = ReplyCounter()
    counter.feed(b"+OK\r\n-OOM no\r\n*3\r\n+OK\r\n-WRONGTYPE bad\r\n:1\r\n+OK\r\n")
    assert list(counter.notes) == [Note(1, -1, "OOM no"), Note(2, 1, "WRONGTYPE bad")]
    assert counter.replies == 4


def test_bounds_what_it_remembers() -> None:
    """An array of a million errors is counted, not kept; a bulk string of any size is skipped."""
    counter = ReplyCounter()
    counter.feed(b"*100000\r\n")
    for _ in range(100):
        counter.feed(b"-ERR x\r\n" * 1000)
    assert (counter.replies, len(counter.notes), counter.unnoted) == (1, MAX_ELEMENT_NOTES, 100_000 - MAX_ELEMENT_NOTES)
    counter.feed(b"$1000000000000\r\n" + b"x" * 100)
    assert counter.replies == 1


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400", b"$x\r\n", b"*1\r\n" * 40, b"+" + b"x" * (MAX_LINE + 1)], ids=lambda data: repr(data[:8])
)
def test_refuses_what_is_not_resp(data: bytes) -> None:
    """Bytes that cannot be replies end in a typed error."""
    with pytest.raises(ReplyFormatError):
        ReplyCounter().feed(data)
