"""Commands speak one language: a setting is one flag everywhere, errors have one form and come last, a bar fits its terminal."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.core import TyperGroup

from portd.cli.app import COMMANDS, build
from portd.cli.display import TerminalDisplay
from portd.config.settings import SETTINGS
from portd.model import LaneState, Progress, Work
from portd.units import human_short
from portd.watch.view import View
from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

NOBODY, NOBODY_ELSE = "redis://127.0.0.1:1", "redis://127.0.0.1:2"  # nothing listens there
READ_A_SOURCE = ("sync", "check", "verify", "cutover", "decode", "dump")
WRITE_A_TARGET = ("sync", "check", "verify", "cutover", "restore", "status")
SETTINGS_FLAGS = {"--" + name.replace("_", "-") for name in SETTINGS}


def flags() -> dict[str, set[str]]:
    """The long flags of every command that people see."""
    app = typer.main.get_command(build(COMMANDS))
    assert isinstance(app, TyperGroup)
    seen = {name: each for name, each in app.commands.items() if not each.hidden}
    return {
        name: {flag for each in found.params for flag in each.opts if flag[:2] == "--"} for name, found in seen.items()
    }


def test_an_end_is_told_in_the_same_flags_everywhere() -> None:
    """Passwords, TLS and addresses of an end have the name of the end in each command that has one, and --config is in all of these."""
    of = flags()
    for end, names in (("source", READ_A_SOURCE), ("target", WRITE_A_TARGET)):
        wanted = {flag for flag in SETTINGS_FLAGS if re.match(f"--{end}-(password|tls|address)", flag)}
        assert len(wanted) == 8
        for name in names:
            assert wanted | {"--config"} <= of[name], name
    for name, found in of.items():
        strange = {flag for flag in found if re.search("password|tls|connect-seconds|shard", flag)} - SETTINGS_FLAGS
        assert strange == set(), name
        if name not in {*READ_A_SOURCE, *WRITE_A_TARGET}:
            assert "--config" not in found, name


def test_files_and_variables_are_settings_of_each_of_them(tmp_path: Path) -> None:
    """What a sync's file and its variables say of the source is so for dump and decode, and a mistake there is told."""
    file = tmp_path / "portd.toml"
    file.write_text(f'source = "{NOBODY}"\ntarget = "redis://elsewhere"\nsource_password_file = "/none/such"\n')
    for words in (("dump", "-o", tmp_path / "x", "--config", file), ("decode", NOBODY, "--config", file)):
        told = run(*words, expect=None)
        assert (told.code, "/none/such" in told.err) == (os.EX_CONFIG, True), told
    plain = tmp_path / "links.toml"
    plain.write_text(f'[[link]]\nname = "eu"\nsource = "{NOBODY}"\ntarget = "redis://elsewhere"\n')
    assert run("dump", "-o", tmp_path / "x", "--config", plain, expect=os.EX_UNAVAILABLE)
    assert (
        "several" not in run("dump", "-o", tmp_path / "x", "--config", plain, "--link", "us", expect=os.EX_CONFIG).err
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("check", "--source", "nonsense", "--target", NOBODY), os.EX_CONFIG),
        (("verify", "--source", NOBODY, "--target", NOBODY_ELSE), os.EX_UNAVAILABLE),
        (("status", "--target", NOBODY), os.EX_UNAVAILABLE),
        (("decode", NOBODY), os.EX_UNAVAILABLE),
        (("decode", "/none/such"), os.EX_NOINPUT),
        (("ctl", "accept", "--socket", "/none/such"), os.EX_UNAVAILABLE),
        (("ctl", "nonsense"), os.EX_USAGE),
        (("sync", "--source", NOBODY), os.EX_CONFIG),
        (("sync", "--nonsense"), os.EX_USAGE),
        (("verify", "--rounds", "many", "--source", NOBODY, "--target", NOBODY), os.EX_USAGE),
        (("nonsense",), os.EX_USAGE),
        (("demo", "--keys", "1"), os.EX_USAGE),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_an_error_has_one_form(words: tuple[str, ...], code: int) -> None:
    """`portd: what`, and what to do on the line behind it, last; no box, no traceback, no help to scroll past."""
    told = run(*words, expect=code)
    assert told.out == b""
    *logged, error, hint = told.err.splitlines()
    assert all(line.startswith("ts=") for line in logged)  # verify tells of what it clears away
    assert re.match(r"portd: \S", error)
    assert re.match(r"HINT: \S", hint)


@pytest.mark.parametrize("name", ["sync", "dump", "restore"])
def test_the_error_is_the_last_line_of_a_log(name: str, tmp_path: Path) -> None:
    """Nothing that is said at the end of a command that keeps a log stands behind what has ended it."""
    words = {
        "sync": ("--source", NOBODY, "--target", NOBODY_ELSE, "--http", "off"),
        "dump": ("--source", NOBODY, "-o", tmp_path / "x"),
        "restore": ("/none/such", "--target", NOBODY),
    }
    told = run(name, *words[name], expect=None)
    assert told.code in {os.EX_UNAVAILABLE, os.EX_NOINPUT}
    last = told.err.splitlines()[-1]
    assert "event=failed" in last
    assert "hint=" in last
    assert f"exit_code={told.code}" in last


def test_without_a_command_the_help_is_shown() -> None:
    """`portd` alone is no mistake to explain; it exits as other wrong uses do."""
    told = run(expect=os.EX_USAGE)
    assert b"Usage" in told.out + told.err.encode()
    assert "HINT" not in told.err


def drawn(
    progress: list[Progress], names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any, width: int
) -> list[str]:
    """The live lines on a terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = TerminalDisplay([View.of(each, name) for each, name in zip(progress, names, strict=True)])
    capsys.readouterr()
    display.update()
    text = capsys.readouterr().err
    display.close()
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip("\r") for line in text.splitlines()]


def busy() -> Progress:
    """A large snapshot under way."""
    progress = Progress(work=Work.COPYING, lanes=[LaneState(0)])
    progress.source.connected = progress.lanes[0].connection.connected = True
    progress.begin_snapshot()
    snapshot = progress.snapshot
    snapshot.bytes_total, snapshot.bytes_decoded, snapshot.bytes_read = 3 << 30, 1_288_490_189, 1 << 31
    snapshot.keys_total, snapshot.keys_applied = 123_456_789, 12_345_678
    return progress


def test_a_bar_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands beside the bar is not cut off by it: bytes, keys, and the memory that the bar is to show."""
    (line,) = [each for each in drawn([busy()], [""], monkeypatch, capsys, 80) if "snapshot" in each]
    assert len(line.rstrip()) <= 80
    assert re.search(r"1\.20 GiB, 12\.3M keys, .*/s.*, [\d.]+ MiB RSS$", line.rstrip())


def test_several_bars_are_told_apart_in_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each link has its line, with its name; where the name takes the room, dots say that something was cut."""
    lines = drawn([busy(), busy()], ["eu", "n" * 90], monkeypatch, capsys, 80)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert any("eu: snapshot" in line for line in lines)
    assert any(line.rstrip().endswith("…") for line in lines)


def test_counts_take_few_columns() -> None:
    """Three digits tell how many; small numbers are told in full."""
    shown = [human_short(count) for count in (0, 999, 9999, 10_000, 123_456, 999_600, 12_345_678, 5e9, 5e12)]
    assert shown == ["0", "999", "9999", "10.0k", "123k", "1.00M", "12.3M", "5.00G", "5000G"]
