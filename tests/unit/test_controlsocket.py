"""The control socket: one line of JSON each way, for the owner only."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from portd import controlsocket as module
from portd.config.settings import Settings
from portd.controlsocket import CLIENTS, LINE_BYTES, PATH_BYTES, Command, ControlSocket, Refusal, ask, never
from portd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


async def echo(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Answers with what it was asked."""
    return {"said": dict(arguments)}


async def refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
    """Never does."""
    raise Refusal("not now", "later")


COMMANDS = {"echo": Command(echo, {"a": int, "link": str}), "refuse": Command(refuse)}


@asynccontextmanager
async def listening(path: Path, **more: Command) -> AsyncIterator[ControlSocket]:
    """A control socket with two commands, and more."""
    control = ControlSocket(path, {**COMMANDS, **more})
    await control.start()
    try:
        yield control
    finally:
        control.close()


async def raw(path: Path, line: bytes) -> dict[str, Any]:
    """The answer to a line."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    answer: dict[str, Any] = json.loads(await reader.readline())
    assert await reader.read() == b""  # one answer, and the end
    writer.close()
    return answer


async def test_a_question_is_answered(tmp_path: Path) -> None:
    """Commands get their arguments, and an error comes with what to do."""
    path = tmp_path / "socket"
    async with listening(path):
        assert await ask(path, "echo", {"a": 1}) == {"ok": True, "said": {"a": 1}}
        assert await ask(path, "refuse") == {"ok": False, "error": "not now", "hint": "later"}
        answer = await ask(path, "other")
        assert not answer["ok"]
        assert "echo, refuse" in answer["hint"]
    assert not path.exists()


@pytest.mark.parametrize("line", [b"\n", b"hello\n", b"[]\n", b'"a"\n', b"{}\n", b'{"command": 1}\n', b"\xff\xfe\n"])
async def test_what_is_no_question_is_refused(tmp_path: Path, line: bytes) -> None:
    """Whatever comes, there is an answer, and the socket goes on."""
    path = tmp_path / "socket"
    async with listening(path):
        assert not (await raw(path, line))["ok"]
        assert not (await raw(path, b'{"command": "echo", "arguments": []}\n'))["ok"]
        assert (await raw(path, b'{"command": "echo"}\n'))["ok"]


async def test_a_line_without_end_is_dropped(tmp_path: Path) -> None:
    """Nobody makes us hold more than a line."""
    path = tmp_path / "socket"
    async with listening(path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x" * (3 * LINE_BYTES))
        with suppress(ConnectionError):  # it was closed with bytes of ours unread
            assert await reader.read() == b""
        writer.close()
        assert (await raw(path, b'{"command": "echo"}\n'))["ok"]


async def test_clients_are_few_at_a_time(tmp_path: Path) -> None:
    """Who opens many connections is told to try again."""
    path = tmp_path / "socket"
    async with listening(path):
        idle = [await asyncio.open_unix_connection(str(path)) for _ in range(CLIENTS)]
        answer = await raw(path, b'{"command": "echo"}\n')
        assert "too many" in answer["error"]
        for _, writer in idle:
            writer.close()


async def test_a_command_that_lasts_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is none of the few; when that goes away it is cancelled, and there are not too many of them."""
    monkeypatch.setattr(module, "LASTING", CLIENTS + 2)
    path, begun, ended, may_end = tmp_path / "socket", asyncio.Semaphore(0), asyncio.Semaphore(0), asyncio.Event()

    async def wait(_: Mapping[str, Any]) -> Mapping[str, Any]:
        begun.release()
        try:
            await may_end.wait()
        finally:
            ended.release()
        return {"text": "over"}

    async with listening(path, wait=Command(wait, changes=never, lasts=True)):
        asking = []
        for _ in range(CLIENTS + 2):
            asking.append(asyncio.create_task(ask(path, "wait", seconds=None)))
            await begun.acquire()
        assert "waited for already" in (await ask(path, "wait"))["error"]
        assert (await ask(path, "echo", {"a": 1}))["ok"]
        for task in asking[2:]:
            task.cancel()
        for _ in asking[2:]:
            await ended.acquire()
        may_end.set()
        assert [await task for task in asking[:2]] == [{"ok": True, "text": "over"}] * 2


async def test_a_command_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not last is given up, and whoever asks is told; a bug in one is an answer, too."""
    monkeypatch.setattr(module, "SECONDS", 0.2)

    async def hang(_: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def fail(_: Mapping[str, Any]) -> Mapping[str, Any]:
        raise KeyError("x")

    path = tmp_path / "socket"
    async with listening(path, hang=Command(hang), fail=Command(fail)):
        assert "takes longer" in (await ask(path, "hang"))["error"]
        assert "a bug in portd (KeyError)" in (await ask(path, "fail"))["error"]
        assert (await ask(path, "echo"))["ok"]


async def test_an_orderly_end_gives_the_answers_that_are_due(tmp_path: Path) -> None:
    """What a command waited for has ended: its client hears of it; who has said nothing is not waited for."""
    path, ended = tmp_path / "socket", asyncio.Event()
    begun = asyncio.Event()

    async def wait(_: Mapping[str, Any]) -> Mapping[str, Any]:
        begun.set()
        await ended.wait()
        return {"text": "it has ended"}

    async with listening(path, wait=Command(wait, lasts=True)) as control:
        silent, writer = await asyncio.open_unix_connection(str(path))
        asking = asyncio.create_task(ask(path, "wait", seconds=None))
        await begun.wait()
        ended.set()
        async with asyncio.timeout(1.5):  # less than is waited for whoever works
            await control.finish()
        assert (await asking)["text"] == "it has ended"
        assert await silent.read() == b""
        writer.close()
    assert not path.exists()


async def test_what_is_logged(tmp_path: Path) -> None:
    """Who changed something, and what; nobody who only asks; a refusal in any case."""
    path = tmp_path / "socket"
    with capture_logs() as lines:
        async with listening(path, look=Command(echo, {"a": int}, never)):
            await ask(path, "look", {"a": 1})
            await ask(path, "echo", {"a": 2, "link": "eu"})
            await ask(path, "refuse")
            await ask(path, "echo", {"b": 2})
            await ask(path, "echo", {"a": "many"})
    told = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["event"], line.get("command")) for line in told] == [
        ("control command", "echo"),
        ("control command refused", "refuse"),
        ("control command refused", ""),
        ("control command refused", ""),
    ]
    assert (told[0]["a"], told[0]["link"], told[0]["pid"], told[0]["uid"]) == (2, "eu", os.getpid(), os.getuid())
    assert [line["error"] for line in told[2:]] == [
        "echo has no argument 'b'",
        "echo: that is not a value for a",
    ]


async def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    """Mode 0600, whatever the umask is."""
    before = os.umask(0)
    try:
        async with listening(tmp_path / "socket"):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_what_is_in_the_way(tmp_path: Path) -> None:
    """The socket of a killed process is replaced; a file, a socket in use, and a path that is too long are not."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with listening(path):
        assert (await raw(path, b'{"command": "echo"}\n'))["ok"]
        with pytest.raises(ConfigError, match="another process listens"):
            await ControlSocket(path, {}).start()
        assert (await raw(path, b'{"command": "echo"}\n'))["ok"]
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        await ControlSocket(path, {}).start()
    assert path.read_text() == "precious"
    with pytest.raises(ConfigError, match="longer than"):
        await ControlSocket(tmp_path / ("x" * PATH_BYTES), {}).start()
    with pytest.raises(ConfigError, match="cannot be made"):
        await ControlSocket(tmp_path / "missing" / "socket", {}).start()


async def test_two_that_start_at_once_do_not_replace_each_other(tmp_path: Path) -> None:
    """While another process is between making its socket and listening, a start waits, and then finds it in use."""
    path = tmp_path / "socket"
    directory = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as other:
        fcntl.flock(directory, fcntl.LOCK_EX)
        other.bind(str(path))
        inode = path.stat().st_ino
        second = ControlSocket(path, {})
        starting = asyncio.create_task(second.start())
        try:
            done, _ = await asyncio.wait({starting}, timeout=0.2)
            assert not done, "the socket of the other process was taken for one left behind"
            assert path.stat().st_ino == inode
            other.listen()
            os.close(directory)
            with pytest.raises(ConfigError, match="another process listens"):
                await starting
        finally:
            second.close()


async def test_a_directory_that_is_gone_at_the_end(tmp_path: Path) -> None:
    """Whatever became of the path, the end of a sync is in order."""
    directory = tmp_path / "run"
    directory.mkdir()
    control = ControlSocket(directory / "socket", {})
    await control.start()
    (directory / "socket").unlink()
    directory.rmdir()
    directory.write_text("a file")
    control.close()


async def test_the_socket_of_a_successor_stays(tmp_path: Path) -> None:
    """A sync that ends removes its own socket only."""
    path = tmp_path / "socket"
    async with listening(path):
        path.unlink()
        successor = ControlSocket(path, COMMANDS)
        await successor.start()
    assert (await raw(path, b'{"command": "echo"}\n'))["ok"]
    successor.close()
    assert not path.exists()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where systemd gives a directory, there; where it is set, there; else nowhere."""

    def path(**more: Any) -> Path | None:
        return Settings(source="redis://a", target="redis://b", link="eu", **more).control_path()

    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert path() is None
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/portd:/run/other")
    assert path() == Path("/run/portd/portd-eu.sock")
    assert path(control_socket="off") is None
    assert path(control_socket=Path("/tmp/here")) == Path("/tmp/here")
