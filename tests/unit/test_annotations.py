"""Timestamps between the commands of an append-only file are left out, and nothing else is."""

from __future__ import annotations

import pytest

from portd.errors import DecodeError
from portd.files.annotations import AnnotationFilter

COMMANDS = [b"*2\r\n$3\r\nGET\r\n$9\r\n#TS:1\r\n*1\r\n", b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$1\r\na\r\n$0\r\n\r\n"]
TIMED = b"#TS:1617181920\r\n" + COMMANDS[0] + COMMANDS[1] + b"#TS:1617181921\r\n" + COMMANDS[2] + b"#TS:1\r\n"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_only_annotations_are_left_out(size: int) -> None:
    """The same bytes inside of a value stay, however the file is cut."""
    cleaner = AnnotationFilter()
    out = b"".join(cleaner.feed(TIMED[at : at + size]) for at in range(0, len(TIMED), size)) + cleaner.rest()
    assert out == b"".join(COMMANDS)


def test_a_cut_command_is_passed_on() -> None:
    """Whoever reads on must see that something is missing."""
    cleaner = AnnotationFilter()
    assert cleaner.feed(COMMANDS[1][:-8]) + cleaner.rest() == COMMANDS[1][:-8]


@pytest.mark.parametrize("bad", [b"PING\r\n", b"*1\r\n*1\r\n", b"*x\r\n", b"#" * 70_000])
def test_anything_else_is_an_error(bad: bytes) -> None:
    """What is neither a command nor an annotation is told, with its place."""
    with pytest.raises(DecodeError):
        AnnotationFilter().feed(bad)
