"""Timestamps between the commands of an append-only file are left out, and nothing else is."""

from __future__ import annotations

import pytest

from portd.kernel.annotations import AnnotationFilter

COMMANDS = [b"*2\r\n$3\r\nGET\r\n$9\r\n#TS:1\r\n*1\r\n", b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$1\r\na\r\n$0\r\n\r\n"]
TIMED = b"#TS:1617181920\r\n" + COMMANDS[0] + COMMANDS[1] + b"#TS:1617181921\r\n" + COMMANDS[2] + b"#TS:1\r\n"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_only_annotations_are_left_out(size: int) -> None:
    """The same bytes inside of a value stay, however the file is cut."""
    cleaner = AnnotationFilter()
    out = b"".join(cleaner.feed(TIMED[at : at + size]) for at in range(0, len(TIMED), size)) + cleaner.rest()
    assert out == b"".join(COMMANDS)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_they_may_begin_in_the_middle(size: int) -> None:
    """The setting can be switched on while a file is being written."""
    data = COMMANDS[0] + COMMANDS[1] + TIMED
    cleaner = AnnotationFilter()
    out = b"".join(cleaner.feed(data[at : at + size]) for at in range(0, len(data), size)) + cleaner.rest()
    assert out == COMMANDS[0] + COMMANDS[1] + b"".join(COMMANDS)


def test_a_cut_command_is_passed_on() -> None:
    """Whoever reads on must see that something is missing."""
    cleaner = AnnotationFilter()
    assert cleaner.feed(COMMANDS[1][:-8]) + cleaner.rest() == COMMANDS[1][:-8]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("strange", [b"PING\r\n", b"*1\r\n*1\r\n", b"*x\r\n", b"$1\r\na\r\n", b"#" * 70_000])
def test_what_is_neither_goes_on_with_all_behind_it(strange: bytes, size: int) -> None:
    """Whoever reads the commands says what is wrong; nothing is left out of what was not understood."""
    data = COMMANDS[0] + strange + TIMED
    cleaner = AnnotationFilter()
    assert b"".join(cleaner.feed(data[at : at + size]) for at in range(0, len(data), size)) + cleaner.rest() == data


def test_what_replicas_pass_over_is_no_obstacle() -> None:
    """Empty lines and commands without arguments may stand between commands; annotations behind them are found."""
    odd = b"\r\n*0\r\n*-1\r\n"
    assert AnnotationFilter().feed(odd + TIMED) == odd + b"".join(COMMANDS)


@pytest.mark.parametrize("end", range(1, 16))
def test_a_cut_timestamp_is_nothing_that_is_missing(end: int) -> None:
    """A server that stopped inside of one has written all of its commands."""
    cleaner = AnnotationFilter()
    assert cleaner.feed(COMMANDS[0] + b"#TS:1617181920\r\n"[:end]) + cleaner.rest() == COMMANDS[0]
