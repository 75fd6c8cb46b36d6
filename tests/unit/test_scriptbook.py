"""The book of scripts: bounded, found again by the next start, and never wrong about a text."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from portd.target.stream import scriptbook
from portd.target.stream.scriptbook import ScriptBook, digest_of

if TYPE_CHECKING:
    from pathlib import Path


def text(number: int, size: int = 40) -> bytes:
    """A script of that size."""
    return b"return %d --" % number + b"x" * (size - 12)


def known(book: ScriptBook, *numbers: int, size: int = 40) -> list[int]:
    """Which of these it knows; each answer is right."""
    found = {number: book.get(digest_of(text(number, size))) for number in numbers}
    assert all(each in {None, text(number, size)} for number, each in found.items())
    return [number for number, each in found.items() if each is not None]


def files(folder: Path) -> list[Path]:
    """Of the book, in order."""
    return sorted(folder.iterdir())


def test_the_digest_is_what_servers_call_it_by() -> None:
    """The SHA1 of the text, in lower-case hexadecimal digits."""
    assert digest_of(b"return 1") == b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


@pytest.mark.parametrize("kept", [True, False])
def test_the_newest_are_known_within_the_bounds(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Two halves of so many texts; what is asked for stays, what is not goes; memory and disk stay bounded."""
    monkeypatch.setattr(scriptbook, "MOST_TEXTS", 10)
    book = ScriptBook(tmp_path / "book" if kept else None)
    assert not book.held_bytes()
    for number in range(100):
        book.add(text(number))
        assert known(book, 0, number) == sorted({0, number})
        assert book.held_bytes() <= 20 * (scriptbook.ENTRY_BYTES + 40)
    assert known(book, *range(99, 90, -1)) == list(range(99, 90, -1))
    assert known(book, *range(1, 70)) == []
    book.add(b"x" * (scriptbook.TEXT_BYTES + 1))
    assert book.get(digest_of(b"x" * (scriptbook.TEXT_BYTES + 1))) is None
    assert book.get(b"no digits") is None
    book.close()


def test_bytes_are_bounded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file, whatever the number of texts."""
    monkeypatch.setattr(scriptbook._FileHalf, "most_bytes", 10_000)
    book = ScriptBook(tmp_path / "book")
    for number in range(200):
        book.add(text(number, 1000))
    assert all(file.stat().st_size <= 10_000 for file in files(tmp_path))
    assert known(book, *range(199, 191, -1), size=1000) == list(range(199, 191, -1))
    assert known(book, *range(170), size=1000) == []
    book.close()


def test_the_next_start_finds_them(tmp_path: Path) -> None:
    """Both halves, the newer one first; nothing is made before there is something to keep."""
    path = tmp_path / "book"
    ScriptBook(path).close()
    assert files(tmp_path) == []
    book = ScriptBook(path)
    for number in range(5):
        book.add(text(number))
    book.close()
    book.close()
    again = ScriptBook(path)
    assert known(again, *range(6)) == list(range(5))
    again.add(text(5))
    assert known(again, *range(6)) == list(range(6))
    again.close()
    assert [file.stat().st_mode & 0o777 for file in files(tmp_path)] == [0o600, 0o600]


@pytest.mark.parametrize("harm", ["cut", "altered", "no book", "empty"])
def test_what_was_harmed_is_not_believed(harm: str, tmp_path: Path) -> None:
    """A file is read up to where it is whole; texts that do not fit their digest are not known."""
    path = tmp_path / "book"
    book = ScriptBook(path)
    for number in range(5):
        book.add(text(number))
    book.close()
    file = max(files(tmp_path), key=lambda each: each.stat().st_size)
    data = file.read_bytes()
    harmed = {
        "cut": data[:-1],
        "altered": data.replace(text(4), text(3)),
        "no book": b"something else that is longer than a header",
        "empty": b"",
    }
    file.write_bytes(harmed[harm])
    again = ScriptBook(path)
    assert known(again, *range(5)) == (list(range(4)) if harm in {"cut", "altered"} else [])
    again.add(text(4))
    assert 4 in known(again, *range(5))
    again.close()


def test_an_alteration_while_it_runs_is_noticed(tmp_path: Path) -> None:
    """The digest is computed again before a text is given to anybody."""
    path = tmp_path / "book"
    book = ScriptBook(path)
    book.add(text(1))
    file = max(files(tmp_path), key=lambda each: each.stat().st_size)
    with file.open("r+b") as raw:
        raw.seek(-1, os.SEEK_END)
        raw.write(b"y")
    assert known(book, 1) == []
    book.close()


def test_two_processes_do_not_share_a_book(tmp_path: Path) -> None:
    """The second one keeps its texts in memory."""
    path = tmp_path / "book"
    first = ScriptBook(path)
    first.add(text(1))
    second = ScriptBook(path)
    second.add(text(2))
    assert (known(first, 1, 2), known(second, 1, 2)) == ([1], [2])
    second.close()
    first.close()
    again = ScriptBook(path)
    assert known(again, 1, 2) == [1]
    again.close()


def test_a_full_disk_leaves_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is kept in memory from then on, and never half."""
    book = ScriptBook(tmp_path / "book")
    book.add(text(1))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    book.add(text(2))
    book.add(text(3))
    assert known(book, 3) == [3]
    book.close()
