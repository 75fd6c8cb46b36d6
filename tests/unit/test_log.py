"""Logs: one line an event, whatever is in it; no secrets; nobody stumbles over a reader that went away."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from portd import log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where lines go; the usual configuration comes back after the test."""
    yield io.StringIO()
    log.configure("logfmt", "info")


def lines(stream: io.StringIO) -> list[str]:
    """What was written."""
    return stream.getvalue().splitlines()


def fail(text: str) -> None:
    """Raises."""
    raise ValueError(text)


def test_logfmt_is_one_line_with_its_keys_in_order(stream: io.StringIO) -> None:
    """Time, level, part and event come first; newlines, quotes and spaces stay inside their value."""
    log.configure("logfmt", "info", stream)
    log.get_logger("link").info("link lost", reason='a "b"\nc=d', offset=7, up=False)
    (line,) = lines(stream)
    assert line.startswith("ts=")
    assert line.split(" ", 1)[1] == 'level=info part=link event="link lost" reason="a \\"b\\"\\nc=d" offset=7 up=false'


def test_json_is_one_object_a_line(stream: io.StringIO) -> None:
    """Every event can be parsed, values of unknown types included."""
    log.configure("json", "info", stream)
    log.get_logger("link").info("link up", raw=b"\xff", source={"a": 1})
    (event,) = (json.loads(line) for line in lines(stream))
    assert (event["event"], event["part"], event["level"], event["source"]) == ("link up", "link", "info", {"a": 1})


def test_levels_are_filtered(stream: io.StringIO) -> None:
    """What is below the level is not written."""
    log.configure("logfmt", "warning", stream)
    logger = log.get_logger("x")
    logger.info("no")
    logger.warning("yes")
    assert ["event=yes" in line for line in lines(stream)] == [True]


@pytest.mark.parametrize("style", ["logfmt", "json", "console"])
def test_secrets_are_masked(stream: io.StringIO, style: str) -> None:
    """A password in a field, in a URL or in an error's text is not written."""
    log.configure(style, "info", stream)
    logger = log.get_logger("x")
    logger.info("a", password="hunter", source_password="hunter", url="redis://user:hunter@host/", auth="hunter")
    try:
        fail("cannot reach redis://:hunter@host")
    except ValueError:
        logger.exception("b", url="rediss://u:hunter@[::1]:1")
    assert "hunter" not in stream.getvalue()
    assert "host" in stream.getvalue()


def test_libraries_log_the_same_way(stream: io.StringIO) -> None:
    """Records of the standard logging become events of ours."""
    log.configure("logfmt", "info", stream)
    logging.getLogger("some.library").error("task %s failed", "x")
    (line,) = lines(stream)
    assert 'level=error part=some.library event="task x failed"' in line


def test_a_traceback_stays_on_its_line(stream: io.StringIO) -> None:
    """A collector that reads lines gets one line for an exception."""
    log.configure("logfmt", "info", stream)
    try:
        fail("one\ntwo")
    except ValueError:
        log.get_logger("x").exception("bad")
    (line,) = lines(stream)
    assert "ValueError: one" in line


def test_a_reader_that_went_away_is_survived() -> None:
    """A closed pipe loses lines, counted, and raises nothing into the sync."""
    reader, writer = os.pipe()
    os.close(reader)
    before = log.LineLogger.lost
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        log.configure("logfmt", "info", stream)
        log.get_logger("x").info("to nobody")
        assert log.LineLogger.lost == before + 1
        with pytest.raises(BrokenPipeError):
            stream.close()
    log.configure("logfmt", "info")


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    """Under systemd the level is a prefix, the time is left to the journal."""
    path = tmp_path / "errors"
    code = (
        "import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'\n"
        "from portd import log; log.configure(); log.get_logger('x').warning('careful', n=1)"
    )
    with path.open("w") as errors:
        subprocess.run([sys.executable, "-c", code], stderr=errors, check=True)
    assert path.read_text() == "<4>level=warning part=x event=careful n=1\n"


@pytest.mark.parametrize("style", ["console", "logfmt", "json"])
def test_controls_of_a_server_do_not_reach_the_log(stream: io.StringIO, style: str) -> None:
    """A version, a reply or a name with escape sequences is written as text."""
    log.configure(style, "info", stream)
    log.get_logger("sync").info("source", version="7.0\x1b]0;title\x07\x9b31m", error="-ERR \x1b[2J")
    line = stream.getvalue()
    assert "7.0" in line
    assert not [letter for letter in line if (ord(letter) < 0x20 and letter != "\n") or 0x7F <= ord(letter) < 0xA0], (
        line
    )
