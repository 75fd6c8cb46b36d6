"""How `portd sync` starts: what others can see of it, who answers when nothing comes of it, what waits for what."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import portd
from portd.cli import launch
from portd.errors import InternalError
from tests.servers import PATIENCE_SECONDS

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PORTD_")},
    "PYTHONPATH": os.pathsep.join([str(Path(portd.__path__[0]).parent), *sys.path]),
}


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    """Starts `portd`."""
    return subprocess.Popen(
        [sys.executable, "-m", "portd", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def as_worker(reader: str, *, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the worker beside a process that does *reader*, in a cgroup with a memory *limit*; it says what it does when."""
    script = f"""
        import os, pickle, signal, sys
        from portd.cli import worker

        class Group:
            def limit(self):
                return {limit}

        def saying(word, does):
            def called(*words):
                print(word)
                return does(*words)
            return called

        worker.find_cgroup = Group
        worker._load = saying("modules", worker._load)
        worker._take_over = saying("settings", worker._take_over)
        worker._run = saying("service", lambda *settings: 0)
        inbox, outbox = os.pipe()
        reader = os.fork()
        if not reader:
            {reader}
            os._exit(0)
        os.close(outbox)
        sys.argv[1:] = [str(inbox), str(reader)]
        worker.main()
        """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=ENVIRONMENT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--source", "redis://joe:pw@one:1/0?x=y", "--target=redis://:pw@two"], ["--source", "redis://one:1/0", "--target=redis://two"]),
        (["--source", "redis://joe:p@w?://x@one"], ["--source", "redis://one"]),
        (["--source-password", "redis://pw", "--target", "unix:///run/a.sock"], ["--target", "unix:///run/a.sock"]),
        (["--source", "joe:pw@one"], ["--source", "one"]),
        (["--link", "a", "-c", "/etc/portd.toml", "--writers", "2"], ["--link", "a", "-c", "/etc/portd.toml"]),
        (["--source-password=pw", "--target"], []),
    ],
)  # fmt: skip
def test_command_line_shows_which_sync_it_is_and_no_secret(words: list[str], seen: list[str]) -> None:
    """Everybody on a machine may read the words of a process."""
    assert list(launch.shown(words)) == seen


def test_running_process_has_no_secret_in_words_or_environment() -> None:
    """Neither flags nor variables are left where ps(1) and /proc show them; the process is the one that was started."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_SECONDS)
        port = silent.getsockname()[1]
        words = ["--source", f"redis://joe@127.0.0.1:{port}", "--target", f"redis://:hush2@localhost:{port}"]
        process = start("sync", *words, "--http", "off", PORTD_SOURCE_PASSWORD="hush1")
        try:
            with silent.accept()[0] as connection:  # it has its settings by now
                assert b"hush2" in connection.recv(1000)
                proc = Path("/proc", str(process.pid))
                shown, environment = (proc / "cmdline").read_bytes(), (proc / "environ").read_bytes()
            assert b"hush" not in shown + environment
            assert b"PORTD_" not in environment
            assert f"redis://127.0.0.1:{port}".encode() in shown
            assert not (proc / f"task/{process.pid}/children").read_text()  # the one that read settings is gone
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)


def test_bad_settings_end_both_processes_with_the_answer_of_the_one_that_read_them() -> None:
    """The exit code and the words are those of the reader, once."""
    process = start("sync", "--source", "nonsense://x", "--target", "redis://y")
    out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == os.EX_CONFIG
    assert not out
    assert errors.count("portd: source") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize(("end", "code"), [("os._exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_worker_ends_as_the_reader_did(end: str, code: int) -> None:
    """A reader that was killed is a failure too."""
    assert as_worker(end).returncode == code


@pytest.mark.parametrize(("limit", "first"), [(None, "modules"), (1 << 30, "modules"), (64 << 20, "settings")])
def test_small_cgroup_has_one_process_after_the_other(limit: int | None, first: str) -> None:
    """What both weigh together is not to be what a small cgroup dies of."""
    ended = as_worker("os.write(outbox, pickle.dumps(()))", limit=limit)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == [first, *{"modules", "settings"} - {first}, "service"]


def test_parent_that_ignores_its_children_changes_nothing() -> None:
    """Ignored signals are inherited; the worker learns all the same how the reader ended."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    words = [sys.executable, "-m", "portd", "sync", "--source", "nonsense://x", "--target", "redis://y"]
    ended = subprocess.run(
        [sys.executable, "-c", ignoring, *words],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert (ended.returncode, "Traceback" in ended.stderr) == (os.EX_CONFIG, False)


def test_interrupt_during_the_start_ends_it_without_a_traceback(tmp_path: Path) -> None:
    """Ctrl-C in the first moments is no bug to be shown, and is not lost while the interpreter starts."""
    settings = tmp_path / "settings"
    os.mkfifo(settings)  # whoever reads it waits
    process = start("sync", "--config", str(settings))
    try:
        while b"portd.cli.worker" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGINT
        settings.write_text("")  # the reader goes on
        assert "Traceback" not in process.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        process.kill()


def test_reader_whose_worker_is_gone_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ended the worker knows that nothing comes of it."""
    inbox, outbox = os.pipe()
    os.close(inbox)
    monkeypatch.setattr(launch, "_outbox", outbox)
    launch.hand_over("settings")


def test_settings_without_a_worker_are_a_bug() -> None:
    """They would go nowhere."""
    with pytest.raises(InternalError):
        launch.hand_over("settings")
