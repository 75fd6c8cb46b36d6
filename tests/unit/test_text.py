"""What comes from elsewhere and is shown: no control characters, no logins."""

from __future__ import annotations

import json
import os

import pytest

from portd.text import dumps, hide_logins, plain
from tests.commands import run

NASTY = "a\x1b]0;title\x07\x9b31m\x7f\x00é\n\tb"


def test_controls_are_escaped() -> None:
    """Nothing is left that a terminal obeys; letters, tabs and line feeds stay."""
    assert plain(NASTY) == "a\\x1b]0;title\\x07\\x9b31m\\x7f\\x00é\n\tb"


def test_json_holds_no_controls_and_says_the_same() -> None:
    """C1 controls and DEL are legal in JSON, and escaped all the same."""
    text = dumps({NASTY: [NASTY]})
    assert plain(text) == text
    assert "é" in text
    assert json.loads(text) == {NASTY: [NASTY]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:secret@host:1", "redis://***@host:1"),
        ("(redis://u:secret@host) and unix://:secret@/x", "(redis://***@host) and unix://***@/x"),
        ("'rediss+sentinel://u:secret@a,b/name'", "'rediss+sentinel://***@a,b/name'"),
        ("redis://u:sec@ret/sec?ret#@host", "redis://***@host"),
        ("the file redis:/:secret@h", "the file redis:/***@h"),
        ("redis://h?password=secret&db=1", "redis://h?password=***&db=1"),
        ("key 'user:1@x' at http://127.0.0.1:8899/", "key 'user:1@x' at http://127.0.0.1:8899/"),
    ],
)
def test_logins_are_hidden(text: str, shown: str) -> None:
    """Of every form in which an address may stand in a message."""
    assert hide_logins(text) == shown


def test_bare_logins_are_hidden_where_a_key_cannot_stand() -> None:
    """A forgotten scheme does not show the password."""
    assert hide_logins("no file (u:secret@host:1)", bare=True) == "no file (***@host:1)"


URL = "redis://:hunter2@127.0.0.1:1"


@pytest.mark.parametrize(
    "words",
    [
        ("sync", URL),
        ("sync", "--source", URL, "--target", "redis://x", URL),
        (URL,),
        ("decode", URL, URL),
        ("decode", "redis+sentinel://:hunter2@127.0.0.1:1/x"),
        ("decode", ":hunter2@127.0.0.1"),
        ("decode", "127.0.0.1", "--format", URL),
        ("restore", "a", URL),
        ("restore", "rediss+sentinel://:hunter2@127.0.0.1:1/x", "--target", "redis://127.0.0.1:1"),
        ("verify", "--method", URL),
        ("check", URL),
        ("sync", "--target-password", "--source", "hunter2"),
        ("sync", "--config", URL, "--source", "redis://a", "--target", "redis://b"),
        ("dump", "--source", "redis://127.0.0.1:1", "--output", f"{URL}/x"),
        ("sync", "--source", "redis://127.0.0.1?password=hunter2&x=1", "--target", "redis://b"),
        ("sync", f"--sourc={URL}"),
        ("status", "--target", "redis://127.0.0.1:1", "--ask", URL),
    ],
    ids=" ".join,
)
def test_usage_errors_show_no_password(words: tuple[str, ...]) -> None:
    """A URL in the wrong place is an error like any other, without its password; the way it ends stays."""
    ended = run(*words, expect=None)
    assert ended.code in {os.EX_USAGE, os.EX_NOINPUT, os.EX_CONFIG, os.EX_CANTCREAT, os.EX_IOERR, os.EX_UNAVAILABLE}
    assert ended.err
    assert "hunter2" not in ended.err + ended.out.decode(), ended.err


def test_usage_errors_keep_their_form() -> None:
    """Help, version, a wrong flag: codes and texts as before."""
    assert b"portd" in run("--version").out
    assert b"Usage" in run("--help").out
    assert "no such option: --targt" in run("sync", "--targt", "x", expect=os.EX_USAGE).err
    assert "HINT: portd sync --help" in run("sync", "x", expect=os.EX_USAGE).err


def test_json_of_what_is_no_text_can_be_sent() -> None:
    """A rule of a flag may hold bytes that are not UTF-8: what tells it is valid, and gives it back."""
    rule = os.fsdecode(b"in:\xff\xfe")
    assert json.loads(dumps({"include": [rule]}).encode()) == {"include": [rule]}
