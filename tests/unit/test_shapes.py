"""Answers are held against their questions, counted before they are built, and numbers in them are not believed."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from portd.kernel.answerbound import AnswerBound
from portd.net.resp import request
from portd.net.shapes import MOST_NUMBER, SHAPES, Conversation, complaint_about, name_of, whole

ERROR = hiredis.ReplyError("ERR no")
GOOD: dict[bytes, Any] = {
    b"INFO": b"x", b"HGET": None, b"EXISTS": 1, b"HGETALL": [b"a", b"b"], b"COMMAND LIST": [b"get"],
    b"COMMAND": [[b"get", 2]], b"SCAN": [b"0", [b"k"]], b"SCRIPT EXISTS": [1, 0], b"TIME": [b"1", b"2"], b"EXEC": [],
    b"MEMORY USAGE": None,
}  # fmt: skip
STRANGE: list[Any] = [{}, True, 1.5, [None], [[]], {1}]


@pytest.mark.parametrize("name", SHAPES, ids=bytes.decode)
def test_each_answer_has_a_shape(name: bytes) -> None:
    """What a server says passes, and so do errors; what none says is told with question and kind, never its contents."""
    kinds = [answer for answer in (*GOOD.values(), b"secret", 7, [b"secret"]) if not complaint_about(name, answer)]
    assert kinds, "something is right"
    assert GOOD.get(name, kinds[0]) in kinds
    assert not complaint_about(name, ERROR)
    for answer in STRANGE:
        said = complaint_about(name, answer)
        assert said.startswith(f"answers {name.decode()} with ") or name == b"EXEC"
        assert "secret" not in said


def test_other_commands_may_be_answered_with_anything() -> None:
    """Only what is read is checked."""
    assert not complaint_about(b"EVAL", {})
    assert complaint_about(b"SELECT 3", 1) == "answers SELECT 3 with a number, where a string belongs"


def test_the_name_of_a_command_has_its_second_word_where_that_matters() -> None:
    """In any letter case."""
    assert name_of(request("info", "server")) == b"INFO"
    assert name_of(request("EXEC")) == b"EXEC"
    assert name_of(request("config", "get", "x")) == b"CONFIG GET"
    assert name_of(request("COMMAND")) == b"COMMAND"


def talk(*exchanges: tuple[bytes, Any]) -> str:
    """What is wrong with answers to commands, in one go; and the same one by one."""
    commands, answers = [command for command, _ in exchanges], [answer for _, answer in exchanges]
    said = Conversation().complaint(commands, answers)
    slowly = Conversation()
    assert next((found for one in exchanges if (found := slowly.complaint([one[0]], [one[1]]))), "") == said
    return said


def test_a_transaction_queues_and_then_answers() -> None:
    """Inside of it everything is queued or refused; EXEC answers all of it in its shapes, nothing, or with an error."""
    multi, read, write, run = (request(*words) for words in (["MULTI"], ["HGETALL", "k"], ["DEL", "k"], ["EXEC"]))
    begun = [(multi, b"OK"), (read, b"QUEUED"), (write, b"QUEUED")]
    assert not talk(*begun, (run, [[b"a", b"b"], 1]), (read, []))
    assert not talk(*begun, (run, [ERROR, 1]), (write, 1))
    assert not talk(*begun, (run, None), (write, 1))
    assert not talk(multi_refused := (multi, ERROR), (write, 1)), multi_refused
    assert not talk((multi, b"OK"), (write, ERROR), (read, b"QUEUED"), (run, ERROR), (write, 1))
    assert "EXEC with a list of 1, where one of 2" in talk(*begun, (run, [1]))
    assert "HGETALL with a number" in talk(*begun, (run, [1, 1]))
    assert "EXEC with a string" in talk(*begun, (run, b"OK"))
    assert "DEL with a string of 2 bytes, where QUEUED" in talk((multi, b"OK"), (write, b"OK"))
    assert "HGETALL with a string" in talk((read, b"QUEUED"))


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("data", "objects"),
    [
        (b"+OK\r\n:1\r\n-ERR\r\n", 3),
        (b"$5\r\n*9\r\n\n\r\n$-1\r\n$0\r\n\r\n", 3),
        (b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n*-1\r\n*0\r\n", 6),
        (b"%1\r\n+a\r\n:1\r\n", 3),
    ],
)
def test_objects_are_counted_however_they_come(data: bytes, objects: int, size: int) -> None:
    """Bytes inside of strings are no objects."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    enough, few = AnswerBound(objects), AnswerBound(objects - 1)
    assert all(enough.feed(piece) for piece in pieces)
    assert not all(few.feed(piece) for piece in pieces)


@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">"])
def test_what_is_announced_counts_at_once(kind: bytes) -> None:
    """A list of two thousand million needs no element to be too much."""
    assert not AnswerBound(1000).feed(kind + b"2147483647\r\n")
    assert not AnswerBound(1000).feed(kind + b"9" * 50 + b"\r\n")
    assert AnswerBound(1000).feed(kind + b"1000\r\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("12", 12), (b"7", 7), ("", None), ("-1", None), ("+1", None), ("1.5", None), ("\u0661", None), ("²", None),
        (str(MOST_NUMBER), MOST_NUMBER), (str(MOST_NUMBER + 1), None), ("9" * 5000, None), (b"\xff", None), ("1 ", None),
    ],
)  # fmt: skip
def test_numbers_are_whole_and_within_their_range(text: str | bytes, number: int | None) -> None:
    """Anything else is none; the longest text costs nothing."""
    assert whole(text) == number
    assert whole("11", 10) is None
