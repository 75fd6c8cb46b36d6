"""The compiled reply counter against hiredis: any replies, cut anywhere, and broken ones."""

from __future__ import annotations

import random
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.errors import TargetError
from portd.kernel.replies import ReplyCounter

line = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20).map(str.encode)


def bulk(body: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(body), body)


simple = st.one_of(
    st.sampled_from([b"+OK\r\n", b"+QUEUED\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"+OKAY\r\n"]),
    st.lists(st.sampled_from([b"+OK\r\n", b"+QUEUED\r\n", b":1\r\n"]), min_size=2, max_size=30).map(b"".join),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: b":%d\r\n" % n),
    line.map(lambda text: b"+" + text + b"\r\n"),
    line.map(lambda text: b"-ERR " + text + b"\r\n"),
    st.binary(max_size=30).map(bulk),
    st.sampled_from([b"\n-\r\n", b"\n$5\r\n", b"\r\n*1\r\n"]).map(bulk),
)
element = simple.filter(lambda data: data.count(b"\r\n") == 1 or data[:1] == b"$")
reply = st.one_of(
    simple,
    st.recursive(
        element, lambda inner: st.lists(inner, max_size=6).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items))
    ),
)

Found = tuple[int, list[tuple[int, int, str | None]]]


def by_hiredis(stream: bytes) -> tuple[Found, list[Any]]:
    """Replies, and where errors and nils are, as hiredis sees them; and the replies."""
    reader = hiredis.Reader()
    reader.feed(stream)
    notes: list[tuple[int, int, str | None]] = []
    answers: list[Any] = []

    def inside(value: Any, element: int) -> None:
        if isinstance(value, hiredis.ReplyError):
            notes.append((len(answers), element, str(value)))
        elif isinstance(value, list):
            for item in value:
                inside(item, element)

    while (answer := reader.gets()) is not False:
        if isinstance(answer, list):
            for index, item in enumerate(answer):
                inside(item, index)
        elif answer is None:
            notes.append((len(answers), -1, None))
        else:
            inside(answer, -1)
        answers.append(answer)
    return (len(answers), notes), answers


def found(counter: ReplyCounter) -> Found:
    """The same from a counter."""
    return counter.replies, [(note.reply, note.element, note.text) for note in counter.notes]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(reply, max_size=15), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.sets(st.integers(0, 60)))
def test_counts_notes_and_keeps_as_hiredis(replies: list[bytes], cuts: list[int], wanted: set[int]) -> None:
    """Replies, errors, nils and wanted values agree with hiredis, whole, byte by byte and cut anywhere."""
    stream = b"".join(replies)
    expected, answers = by_hiredis(stream)
    kept = {
        index: len(answers[index]) if isinstance(answers[index], list) else answers[index]
        for index in wanted
        if index < len(answers) and not isinstance(answers[index], hiredis.ReplyError)
    }
    for sizes in ([len(stream) + 1], [1], cuts):
        counter, at, turn = ReplyCounter(), 0, 0
        for index in sorted(wanted):
            counter.want(index)
        while at < len(stream):
            size = sizes[turn % len(sizes)]
            counter.feed(stream[at : at + size])
            at, turn = at + size, turn + 1
        assert found(counter) == expected
        assert counter.values == kept


def outcome(stream: bytes, step: int) -> tuple[Found, dict[int, Any], bool]:
    """What a counter makes of a stream that may be broken."""
    counter = ReplyCounter()
    counter.want(2)
    try:
        for at in range(0, len(stream), step):
            counter.feed(stream[at : at + step])
    except TargetError:
        return found(counter), counter.values, True
    return found(counter), counter.values, False


@pytest.mark.parametrize("seed", range(6))
def test_broken_replies_are_refused_the_same_way_however_they_are_cut(seed: int) -> None:
    """A mutated stream ends in a TargetError or is counted; where it was cut makes no difference, and nothing crashes."""
    rng = random.Random(seed)
    whole = b"+OK\r\n+QUEUED\r\n:12\r\n*3\r\n:1\r\n-ERR a\r\n$5\r\nhello\r\n$-1\r\n*-1\r\n-OOM b\r\n$3\r\nabc\r\n*2\r\n*1\r\n:1\r\n+x\r\n"
    for _ in range(500):
        broken = bytearray(whole * rng.randint(1, 3))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(broken))
            kind = rng.randrange(4)
            if kind == 0:
                broken[at] = rng.choice(b"0123456789*$+-:\r\n x\xff")
            elif kind == 1:
                del broken[at : at + rng.randint(1, 4)]
            elif kind == 2:
                broken[at:at] = bytes(rng.choice(b"0123456789*$+-:\r\n") for _ in range(rng.randint(1, 4)))
            else:
                broken[at] ^= 1 << rng.randrange(8)
        stream = bytes(broken)
        first = outcome(stream, 1 << 20)
        for step in (1, rng.randint(2, 20)):
            assert outcome(stream, step) == first
