"""What carries a server's own suite over a sync: it compares behind each test, and tells what differs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests import suites
from tests.servers import default_binary

if TYPE_CHECKING:
    from pathlib import Path

TEST = "proc test {name code} { uplevel 1 $code }\n"
HELPER = r"""
source tests/support/test.tcl
set port [lindex $argv [expr {[lsearch $argv --port] + 1}]]
set server [socket 127.0.0.1 $port]
fconfigure $server -translation crlf
test "a key" { puts $server "SET k v"; flush $server; gets $server }
puts "\[ok\]: a key"
puts "All tests passed"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A suite of one test."""
    for name, text in (("test_helper", HELPER), ("support/test", TEST), ("unit/one", "")):
        file = tmp_path / "tests" / f"{name}.tcl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="suites are written in Tcl")
def test_both_ends_are_compared_behind_each_test(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once behind the test and once at the end; the tree stays as it was."""
    name = default_binary().name
    before = sorted(tree.rglob("*"))
    assert suites.main([str(tree), "--source", name, "--target", name, "--unit", "unit/one"]) == 0
    assert "2 compared, 0 differ, dead letters: none; suite: 1 ok, 0 failed\n" in capsys.readouterr().out
    assert sorted(tree.rglob("*")) == before
    assert (tree / "tests/support/test.tcl").read_text() == TEST


def test_a_difference_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the test behind which it was seen first."""
    monkeypatch.setattr(suites, "EQUAL_SECONDS", 0.5)
    name = default_binary().name
    with suites.Pair(name, name, losses=False) as pair:
        pair.source.client().set("k", "v")
        pair.compare("first")
        assert pair.result.differences == []
        pair.target.client().set("k", "w")
        pair.compare("second")
        pair.compare("third")
        (told,) = pair.result.differences
        assert told.startswith("second: db 0 key b'k'")
        assert pair.result.compared == 3


def test_what_is_no_tree_is_named(tmp_path: Path) -> None:
    """Before any server is started."""
    with pytest.raises(SystemExit, match="unpacked source release"):
        suites.main([str(tmp_path), "--source", default_binary().name, "--target", default_binary().name])
    with pytest.raises(SystemExit, match="no server redis0"):
        suites.Pair("redis0", "redis0", losses=False)
