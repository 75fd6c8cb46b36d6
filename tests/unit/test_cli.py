"""The command line: flags, help, exit codes, signals, what systemd and a terminal are told."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portd
from portd.cli.failures import cause, exit_code
from portd.cli.options import show_default
from portd.cli.reload import Changes, ConfigFile
from portd.config.choices import LogLevel
from portd.config.load import load_links, load_settings
from portd.config.settings import SETTINGS, Settings
from portd.config.tables import read_file
from portd.errors import (
    ConfigError,
    DecodeError,
    HandshakeError,
    InternalError,
    SourceLost,
    SpoolError,
    TargetBusy,
    TargetNotEmpty,
    leaves,
)
from portd.memory.plan import plan_memory
from tests.process import Notified
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A service without a sync: does what its argument says and is run by the real runner.
SCRIPT = """
import asyncio, sys, time
from portd import log
from portd.cli.runner import run_blocking
from portd.config.load import load_settings
from portd.errors import *
from portd.memory.accounting import Accounting
from portd.model import Progress, Work
from portd.watch.view import View

class Service:
    def __init__(self, what):
        self.progress, self.what, self.stop = Progress(), what, asyncio.Event()
        self.views = lambda: [View.of(self.progress)]
        self.memory = Accounting().report
    def request_stop(self):
        self.stop.set()
    def alive(self):
        return self.what != "dead"
    async def run(self):
        self.progress.work = Work.FOLLOWING
        self.progress.stream.following = self.progress.stream.caught_up = self.progress.source.connected = True
        print("running", flush=True)
        if self.what == "refuse":
            raise ExceptionGroup("g", [SourceLost("gone"), ExceptionGroup("h", [DecodeError("bad", hint="mend it")])])
        if self.what == "lingers":
            raise SourceLost("gone")
        if self.what == "bug":
            raise ZeroDivisionError("one\\ntwo")
        await self.stop.wait()
        print("draining", flush=True)
        if self.what == "stuck":
            await asyncio.Event().wait()

flags = dict(word.split("=", 1) for word in sys.argv[2:])
settings = load_settings({"source": "redis://one", "target": "redis://two", **flags})
log.configure(settings.log_format, settings.log_level)
code = run_blocking(lambda: Service(sys.argv[1]), settings)
if sys.argv[1] == "lingers":
    print("cleaning", flush=True)
    sys.stdin.readline()
    print("cleaned", flush=True)
sys.exit(code)
"""


def portd_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m portd` with a clean environment."""
    return subprocess.run(
        [sys.executable, "-m", "portd", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**clean(), **environment},
    )


def clean() -> dict[str, str]:
    """The environment without settings, and wide enough for help."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTD_")}
    return {**kept, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join([str(Path(portd.__path__[0]).parent), *sys.path])}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The file with the service."""
    path = tmp_path / "service.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def start(script: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the service and waits until it runs."""
    process = subprocess.Popen(
        [sys.executable, str(script), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean(), **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


# ---------------------------------------------------------------- flags and help


def test_version() -> None:
    """--version tells the version and nothing else."""
    assert portd_command("--version").stdout == f"portd {portd.__version__}\n"


def test_help_leads_a_stranger_to_the_demo_and_to_sync() -> None:
    """The first help page says what portd is and names both commands."""
    shown = portd_command("--help")
    assert shown.returncode == 0
    for words in ("Copies a live Redis or Valkey server", "portd demo", "sync", "--version"):
        assert words in shown.stdout
    assert "reference" not in shown.stdout


def test_every_setting_is_a_flag() -> None:
    """`portd sync --help` lists each setting, with its default."""
    shown = re.sub(r"[\s│]+", " ", portd_command("sync", "--help").stdout)
    for name, setting in SETTINGS.items():
        assert f"--{name.replace('_', '-')} " in shown, name
        if show_default(setting) and not isinstance(setting.default, bool):
            assert f"Default: {show_default(setting)}." in shown, name


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sync"], os.EX_CONFIG, "source is not set"),
        (["sync", "--source", "redis://a", "--target", "redis://a"], os.EX_CONFIG, "same server"),
        (["sync", "--source", "redis://a", "--target", "redis://b", "--writers", "x"], os.EX_CONFIG, "writers: "),
        (["sync", "--config", "/nowhere.toml"], os.EX_CONFIG, "/nowhere.toml cannot be read"),
        (["sync", "--sauce", "redis://a"], os.EX_USAGE, "no such option"),
        (["synk"], os.EX_USAGE, "no such command"),
        (["restore", "--target", "redis://b"], os.EX_USAGE, "missing argument 'FILE...|-'"),
        (["demo", "--keys", "-1"], os.EX_USAGE, "--keys"),
    ],
)
def test_mistakes_have_exit_codes(words: list[str], code: int, message: str) -> None:
    """Usage is 64 and settings are 78, so that systemd does not restart what cannot work; no traceback is shown."""
    shown = portd_command(*words)
    assert (shown.returncode, "Traceback" in shown.stderr) == (code, False)
    assert message in shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["sync", "--source", "redis://:one@a", "--target", "redis://b", "--source", "redis://:two@a"],
        ["sync", "--writers", "one", "--writers=two"],
        ["sync", "-c", "one", "--config", "two"],
        ["check", "--target=redis://:one@b", "--target=redis://:two@b"],
        ["verify", "--link", "one", "--link", "two"],
        ["status", "--ask", "one", "--ask", "two"],
        ["dump", "--output", "one", "--output", "two"],
        ["restore", "--target", "redis://:one@b", "file", "--target", "redis://:two@b"],
        ["decode", "--format", "json", "--format", "csv", "file"],
        ["demo", "--keys", "1", "--keys", "2"],
        ["ctl", "accept", "--link", "one", "--link", "two"],
    ],
    ids=" ".join,
)
def test_a_flag_has_one_value(words: list[str]) -> None:
    """The last of several does not win in silence, in no command; what was given is not shown, it may be a secret."""
    shown = portd_command(*words)
    assert shown.returncode == os.EX_USAGE
    assert "given twice" in re.sub(r"[^a-z]+", " ", shown.stderr)
    assert "two" not in shown.stderr


def test_a_flag_may_be_repeated() -> None:
    """Twice the same is no contradiction."""
    shown = portd_command("sync", "--takeover", "--takeover", "--link", "a", "--link", "a")
    assert shown.returncode == os.EX_CONFIG
    assert "source is not set" in shown.stderr


def test_variables_are_settings() -> None:
    """A variable is checked as a flag is, and the message names the setting."""
    shown = portd_command("sync", PORTD_SOURCE="redis://a", PORTD_TARGET="redis://b", PORTD_CHUNK_BYTES="1")
    assert (shown.returncode, "chunk_bytes: " in shown.stderr) == (os.EX_CONFIG, True)


# ---------------------------------------------------------------- what ended it


def test_the_gravest_error_decides() -> None:
    """Of many errors the exit code is the bug's, then the one that will not pass, then the one that may."""
    lost, busy, bad, bug = SourceLost("a"), TargetBusy("b"), DecodeError("c"), ValueError("d")
    nested = BaseExceptionGroup("g", [lost, ExceptionGroup("h", [busy, bad])])
    assert list(leaves(nested)) == [lost, busy, bad]
    assert cause(nested) is bad
    assert cause(ExceptionGroup("g", [bad, bug])) is bug
    assert cause(ExceptionGroup("g", [lost, busy])) is lost


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 78),
        (TargetNotEmpty("x"), 78),
        (DecodeError("x"), 65),
        (HandshakeError("x"), 77),
        (SourceLost("x"), 69),
        (SpoolError("x"), 74),
        (InternalError("x"), 70),
        (ValueError("x"), 70),
    ],
)
def test_exit_codes_tell_the_cause(error: Exception, code: int) -> None:
    """The code says whose fault it was: sysexits.h."""
    assert exit_code(ExceptionGroup("g", [error])) == code


def outcome_of(script: Path, what: str) -> tuple[int, str]:
    """The exit code and the log of a service that ends by itself."""
    process = start(script, what, "log_format=logfmt")
    _, text = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, text


def test_a_failure_is_one_line_with_its_hint(script: Path) -> None:
    """The log of a failed sync names the error, the hint and the code, and the exit code is the cause's."""
    code, text = outcome_of(script, "refuse")
    assert code == os.EX_DATAERR
    (line,) = [line for line in text.splitlines() if "event=failed " in line]
    assert 'error=bad hint="mend it" exit_code=65' in line
    assert "SourceLost: gone" in text
    assert "Traceback" not in text


def test_a_bug_is_logged_with_its_traceback_on_one_line(script: Path) -> None:
    """An unexpected error is code 70; its traceback does not break the log's lines."""
    code, text = outcome_of(script, "bug")
    assert code == os.EX_SOFTWARE
    (line,) = [line for line in text.splitlines() if "ZeroDivisionError" in line]
    assert "event=failed" in line
    assert "Traceback" in line


# ---------------------------------------------------------------- signals, systemd, progress


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(script: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C ask the service to stop; a drained service exits 0."""
    process = start(script, "good")
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (out, process.returncode) == ("draining\n", 0)


def test_the_second_signal_aborts(script: Path) -> None:
    """A service that does not get done with draining ends at the second signal, with the signal's code."""
    process = start(script, "stuck")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_end_changes_nothing(script: Path, number: signal.Signals) -> None:
    """Between its last log line and its exit, a process keeps its code, and what is to be removed then is."""
    process = start(script, "lingers")
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(number)
    assert process.stdin is not None
    process.stdin.write("\n")  # the signal is there before this is read
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (out, process.returncode) == ("cleaned\n", os.EX_UNAVAILABLE), err


def test_an_interrupted_question_ends_in_order() -> None:
    """Ctrl-C in `status` is 130, without a traceback."""
    script = """
        import asyncio, sys

        def interrupted(work):
            work.close()
            raise KeyboardInterrupt

        asyncio.run = interrupted
        from portd.cli.app import main

        sys.argv = ["portd", "status", "--target", "redis://127.0.0.1:1"]
        main()
        """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(words, capture_output=True, timeout=PATIENCE_SECONDS, check=False, env=clean())
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGINT, b"")


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    """A socket as systemd gives it."""
    found = Notified(tmp_path / "notify")
    yield found
    found.close()


def test_systemd_is_told(script: Path, tmp_path: Path, notified: Notified) -> None:
    """READY once it runs, a status line, a fed watchdog, and STOPPING at the signal."""
    process = start(script, "good", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000")
    notified.until("READY=1")
    assert notified.until("STATUS=") == "STATUS=streaming: lag 0 ms, 0 B, 0 commands/s"
    notified.until("WATCHDOG=1")
    process.send_signal(signal.SIGTERM)
    notified.until("STOPPING=1")
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0


def test_a_dead_service_does_not_feed_the_watchdog(script: Path, tmp_path: Path, notified: Notified) -> None:
    """A part that stopped is systemd's business: the watchdog starves although the loop turns."""
    process = start(script, "dead", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000")
    notified.until("READY=1")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    notified.until("STOPPING=1")
    assert "WATCHDOG=1" not in notified.seen


def test_progress_and_memory_are_logged_where_there_is_no_terminal(script: Path) -> None:
    """Every few seconds one line of progress and, if wanted, one of memory."""
    process = start(script, "good", "progress_seconds=0.05", "memtrace=0.05", "log_format=logfmt")
    lines: list[str] = []
    assert process.stderr is not None
    while not (any("progress" in line for line in lines) and any("memtrace" in line for line in lines)):
        lines.append(process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    progress = next(line for line in lines if "progress" in line)
    assert "event=progress phase=streaming offset=0 lag_bytes=0" in progress
    assert "rss_bytes=" in progress
    assert "unexplained=" in next(line for line in lines if "memtrace" in line)


def test_a_terminal_gets_a_live_line(script: Path) -> None:
    """On a terminal the state is drawn in place, with the memory, and the log scrolls above it."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(script), "good"],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**clean(), "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    drawn = b""
    deadline = time.monotonic() + 20
    while b" RSS" not in drawn and time.monotonic() < deadline:
        if select.select([controller], [], [], 1)[0]:
            drawn += os.read(controller, 65536)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_SECONDS) == 0
    os.close(controller)
    assert b"streaming: lag 0 ms" in drawn


# ---------------------------------------------------------------- SIGHUP

SOME = Settings(source="redis://source", target="redis://target")


def test_a_file_read_again_tells_what_changed(tmp_path: Path) -> None:
    """Some settings change live, a flag wins over the file, and the others need a restart, which is said each time."""
    file = tmp_path / "portd.toml"
    file.write_text('writers = 4\nlog-level = "info"\nmemtrace = 1\n')
    config = ConfigFile(file, frozenset({"memtrace", "source", "target"}), SOME)
    assert config.reread() == Changes()
    file.write_text('writers = 8\nlog_level = "debug"\nmemtrace = 2\nprogress_seconds = 3\n')
    told = Changes({"log_level": LogLevel.DEBUG, "progress_seconds": 3.0}, ["memtrace"], ["writers"])
    assert config.reread() == told
    assert config.reread() == Changes(restart=["writers"])
    file.write_text("")
    assert config.reread().live == {"log_level": LogLevel.INFO, "progress_seconds": 5.0}


TABLES = """\
spool_max_bytes = "1GiB"
[[link]]
name = "eu"
source = "redis://one"
target = "redis://two"
max_target_ops = 5
[[link]]
name = "us"
source = "redis://three"
target = "redis://two"
"""


def test_links_change_one_by_one(tmp_path: Path) -> None:
    """A setting of a link has its name before it; a link that comes or goes needs a restart, and is none until then."""
    file = tmp_path / "portd.toml"
    file.write_text(TABLES)
    config = ConfigFile(file, frozenset(), *load_links({}, file))
    assert config.reread() == Changes()
    file.write_text(TABLES.replace("= 5", "= 7").replace("1GiB", "2GiB") + "verify_every = 60\nwriters = 2\n")
    live = {"eu.max_target_ops": 7, "us.verify_every": 60.0}
    assert config.reread() == Changes(live, restart=["spool_max_bytes", "us.writers"])
    more = '[[link]]\nname = "asia"\nsource = "redis://four"\ntarget = "redis://two"\nmax_target_ops = 1\n'
    file.write_text(TABLES + more)
    changes = config.reread()
    assert changes.live == {"eu.max_target_ops": 5, "us.verify_every": 0.0}
    assert changes.restart == ["asia.link", "asia.max_target_ops", "asia.source", "asia.target"]
    file.write_text(TABLES.partition('[[link]]\nname = "us"')[0])
    assert {"us.link", "us.source", "us.target"} <= set(config.reread().restart)
    file.write_text('source = "redis://one"\ntarget = "redis://two"\nlink = "eu"\nmax_target_ops = 9\n')
    assert not config.reread().live


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLES + 'spool_dir = "/data"\n', "spool_dir, which belongs to the process"),
        ("writers = 2\n" + TABLES, "sets writers outside"),
        (TABLES.replace('"us"', '"eu"'), "two links named eu"),
        ('memory_budget = "4MiB"\n' + TABLES, "1 such link would fit"),
        (TABLES + "writers = 100\n", "writers"),
        (TABLES + 'prune = "flush"\n', "the link us flushes its target"),
    ],
)
def test_a_file_of_links_with_mistakes_changes_nothing(text: str, message: str, tmp_path: Path) -> None:
    """What the next start would refuse is refused at the signal, and what was valid before stays."""
    file = tmp_path / "portd.toml"
    file.write_text(TABLES)
    config = ConfigFile(file, frozenset(), *load_links({}, file))
    file.write_text('log_level = "debug"\n' + text)
    with pytest.raises(ConfigError, match=message) as caught:
        config.reread()
    assert "nothing was changed" in str(caught.value.hint)
    file.write_text('log_level = "debug"\n' + TABLES)
    assert config.reread().live == {"log_level": LogLevel.DEBUG}


def test_a_link_that_was_picked_is_the_only_one_that_is_read_again(tmp_path: Path) -> None:
    """With --link, tables of others come and go without a word."""
    file = tmp_path / "portd.toml"
    file.write_text(TABLES)
    config = ConfigFile(file, frozenset({"link"}), *load_links({"link": "eu"}, file))
    file.write_text(TABLES.replace('"us"', '"asia"').replace("= 5", "= 6"))
    assert config.reread() == Changes({"eu.max_target_ops": 6})
    file.write_text(TABLES.replace('"eu"', '"asia"'))
    with pytest.raises(ConfigError, match="not in the file any more"):
        config.reread()


@pytest.mark.sampled(90)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "value",
    [*("7", "70000", "1e9", "-1", "0.5", "true", "[1]"), *('"7"', '"2MiB"', '"off"', '"auto"', '"yes"', '"a b"', '""')],
)
def test_a_file_is_read_again_as_it_is_at_the_start(name: str, value: str, tmp_path: Path) -> None:
    """What one way of reading refuses, the other refuses; what both take means the same."""
    file = tmp_path / "portd.toml"
    file.write_text("")
    config = ConfigFile(file, frozenset({"source", "target"} - {name}), SOME)
    file.write_text(f"{name} = {value}\n")
    ends = {each: getattr(SOME, each) for each in ("source", "target") if each != name}

    def outcome(read: Callable[[], Settings]) -> object:
        try:
            settings = read()
            plan_memory(settings, None)
        except ConfigError:
            return "refused"
        return settings

    started = outcome(lambda: load_settings(ends, file))
    again = outcome(lambda: next(iter(config._settings_of(read_file(file)).values())))
    if value == "true" and started != again:
        assert again == "refused"  # a number
    else:
        assert started == again


@pytest.mark.parametrize(
    "text",
    [
        *('log_level = "loud"', "memtrace = -1", "memtrace = []", "progress_seconds = 9999", "sauce = 1", "writers ="),
        *('writers = "x"', "writers = 65", "writers = true", 'memory_budget = "1KiB"', 'memory_budget = "2MiB"'),
        *('existing = "nope"', 'link = "a b"', "takeover = 7", "dead_letters = 1", "source_password = 5", 'http = "x"'),
        *("connect_seconds = 0", 'spool_dir = "off"\nprune = "prune"', 'command_bytes = "4MiB"'),
    ],
)
def test_a_file_with_mistakes_changes_nothing(text: str, tmp_path: Path) -> None:
    """A mistake is an error that says so, and what was valid before stays."""
    file = tmp_path / "portd.toml"
    file.write_text("")
    config = ConfigFile(file, frozenset({"source", "target"}), SOME)
    file.write_text('log_level = "debug"\n' + text)
    with pytest.raises(ConfigError, match="nothing was changed") as caught:
        config.reread()
    assert "5" not in str(caught.value) or "password" not in text
    file.write_text('log_level = "debug"\n')
    assert config.reread().live == {"log_level": LogLevel.DEBUG}
