"""The control socket: a running sync takes a word from an operator through a unix socket.

One line of JSON each way, then the connection is closed::

    {"command": "pause", "arguments": {"link": "eu"}}
    {"ok": true, "links": [{"link": "eu", "ok": true, "text": "...", "since": 1700000000.0}], "text": "..."}
    {"ok": false, "error": "nothing is held: the sync is streaming", "hint": "...", "links": [...]}

``arguments`` may be left out. What else an answer holds is the command's (`portd.process.orders`); ``text`` is the same for
people. The file belongs to the user that runs the sync, and only that one and root can open it (mode 0600): there is no
other login. What changes something is logged with who asked, as the kernel tells it (``SO_PEERCRED``).

Most commands answer at once. Some last (a drain, a comparison that is waited for): those do not count for the few
clients that may ask at a time, and end when their client goes away, which is what the end of its side means.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from portd.errors import ConfigError, PortdError
from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

log = get_logger("control")

LINE_BYTES: Final = 64 * 1024  # of a question
ANSWER_BYTES: Final = 16 << 20  # the status of many links is long
SECONDS: Final = 10.0  # for a question, for an answer, and for a command that does not last
CLIENTS: Final = 8  # at a time
LASTING: Final = 32  # commands that last, at a time, beside them
CROWDED_SECONDS: Final = 1.0  # for those beyond
END_SECONDS: Final = 2.0  # at the end, for answers that are due
PATH_BYTES: Final = 107  # unix(7): sun_path with its end
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid; unix(7): struct ucred


class Refusal(Exception):
    """A command cannot be carried out.

    Attributes:
        hint: what to do.
    """

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.hint = hint


def always(_: Mapping[str, Any]) -> bool:
    """Of a command that changes something."""
    return True


def never(_: Mapping[str, Any]) -> bool:
    """Of a command that changes nothing."""
    return False


@dataclass(frozen=True, slots=True)
class Command:
    """What a name stands for.

    Attributes:
        run: does it; gets the arguments, returns what the answer holds (``ok`` too, where that may be False), may raise
            `Refusal` or a `PortdError`. Cancelled when it takes too long, or its client went away.
        arguments: what reads each of them out of JSON; raises ValueError or TypeError. Others are refused.
        changes: whether something changes, by the arguments: that is logged.
        lasts: it may take as long as it takes.
    """

    run: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
    arguments: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    changes: Callable[[Mapping[str, Any]], bool] = always
    lasts: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """What somebody asks."""

    name: str
    command: Command
    arguments: Mapping[str, Any]
    peer: Mapping[str, int]


class ControlSocket:
    """Listens at a path and answers.

    Args:
        path: of the socket; a file that a killed process left there is replaced.
        commands: what each name stands for.
    """

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._asking = 0
        self._lasting = 0
        self._clients: dict[asyncio.Task[Any], bool] = {}  # whether a command is being carried out

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            ConfigError: the path cannot be used, or somebody listens there.
        """
        path = self._path
        try:
            bound = await asyncio.to_thread(_bound, path)
            try:
                self._inode = path.stat().st_ino
                self._server = await asyncio.start_unix_server(self._serve, sock=bound, limit=LINE_BYTES)
            except BaseException:
                bound.close()
                raise
        except OSError as error:
            raise ConfigError(
                f"the control socket {path} cannot be made: {error.strerror or error}",
                hint="set control_socket to a path in a directory that portd may write to, or to off",
            ) from error
        log.info("control socket", path=str(path))

    def close(self) -> None:
        """Ends it and removes the file, unless another process has put its own there; idempotent."""
        for task in self._clients:
            task.cancel()
        if self._server is None:
            return
        self._server.close()
        self._server = None
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass  # somebody has cleaned up
        except OSError as error:
            log.warning("the control socket is not removed", path=str(self._path), error=error.strerror)

    async def finish(self) -> None:
        """An orderly end: answers that are due are given, whoever has asked nothing is not waited for; then `close`.

        To be called when all that commands wait for has ended.
        """
        for task, works in self._clients.items():
            if not works:
                task.cancel()
        due = set(self._clients)
        if self._server is not None:
            self._server.close()
        if due:
            await asyncio.wait(due, timeout=END_SECONDS)
        self.close()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody came."""
        task = asyncio.create_task(self._talk(reader, writer), name="control client")
        self._clients[task] = False
        task.add_done_callback(self._clients.pop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question and its answer."""
        task = asyncio.current_task()
        assert task is not None
        self._asking += 1
        try:
            crowded = self._asking > CLIENTS
            async with asyncio.timeout(CROWDED_SECONDS if crowded else SECONDS):
                line = await reader.readline()  # also of one that is refused: an unread line would cost it the answer
            self._clients[task] = True
            answer = (
                _refused("too many clients at a time", "try again")
                if crowded
                else await self._answer(line, _peer(writer), reader)
            )
            async with asyncio.timeout(SECONDS):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ValueError:  # readline's word for a line that is too long
            log.warning("control socket: a line is too long", bytes=LINE_BYTES)
        except (TimeoutError, OSError) as error:
            log.warning("control socket: a client went away", error=str(error) or "it was silent")
        finally:
            self._asking -= 1
            writer.close()

    async def _answer(self, line: bytes, peer: Mapping[str, int], reader: asyncio.StreamReader) -> Mapping[str, Any]:
        """What is said to a line.

        Raises:
            ConnectionError: the client went away before it was known.
        """
        name = ""
        try:
            question = self._understand(line, peer)
            name = question.name
            changes = question.command.changes(question.arguments)
            tell = log.warning if changes else log.debug
            if question.command.lasts:
                tell("control command", command=name, **question.arguments, **peer)
            said = await self._carry_out(question, reader)
            if not question.command.lasts:
                tell("control command", command=name, **question.arguments, **peer)
        except (Refusal, PortdError) as error:
            text = str(error.args[0])
            log.warning("control command refused", command=name, error=text, **peer)
            return _refused(text, error.hint or "")
        if not said.get("ok", True):
            log.warning("control command refused", command=name, error=said.get("error"), **peer)
        return {"ok": True, **said}

    def _understand(self, line: bytes, peer: Mapping[str, int]) -> _Question:
        """The question that a line is.

        Raises:
            Refusal: it is none.
        """
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        told = told if isinstance(told, dict) else {}
        name, given = told.get("command"), told.get("arguments", {})
        if not isinstance(name, str) or not isinstance(given, dict):
            raise Refusal("that is no question", 'one line: {"command": "status", "arguments": {}}')
        command = self._commands.get(name)
        if command is None:
            raise Refusal(f"there is no command {name[:40]!r}", f"there is {', '.join(self._commands)}")
        arguments = {}
        for word, value in given.items():
            if word not in command.arguments:
                known = ", ".join(command.arguments) or "none"
                raise Refusal(f"{name} has no argument {word[:40]!r}", f"it has {known}")
            try:
                arguments[word] = command.arguments[word](value)
            except (TypeError, ValueError, OverflowError):
                raise Refusal(f"{name}: that is not a value for {word}", "see portd ctl --help") from None
        return _Question(name, command, arguments, peer)

    async def _carry_out(self, question: _Question, reader: asyncio.StreamReader) -> Mapping[str, Any]:
        """Does what is asked for.

        Raises:
            Refusal: it cannot be done, or takes longer than it may.
            PortdError: an end failed.
            ConnectionError: the client went away before it was done.
        """
        command = question.command
        try:
            if command.lasts:
                with self._counted_as_lasting():
                    return await _while_there(command.run(question.arguments), reader, question.name)
            async with asyncio.timeout(SECONDS):
                return await command.run(question.arguments)
        except TimeoutError:
            raise Refusal(
                f"{question.name} takes longer than {SECONDS:.0f} s", "see the log for what became of it"
            ) from None
        except (Refusal, PortdError, ConnectionError):
            raise
        except Exception as error:
            log.exception("control command failed", command=question.name)
            raise Refusal(f"a bug in portd ({type(error).__name__})", "report it, with the log") from None

    @contextmanager
    def _counted_as_lasting(self) -> Iterator[None]:
        """A client inside of it is none of the few that may ask at a time.

        Raises:
            Refusal: too many wait already.
        """
        if self._lasting >= LASTING:
            raise Refusal(f"{LASTING} commands are waited for already", "end some of them")
        self._lasting += 1
        self._asking -= 1
        try:
            yield
        finally:
            self._lasting -= 1
            self._asking += 1


async def _while_there(
    work: Awaitable[Mapping[str, Any]], reader: asyncio.StreamReader, name: str
) -> Mapping[str, Any]:
    """Waits for a command, and ends it when nobody waits for its answer any more.

    Raises:
        ConnectionResetError: the client went away.
    """

    async def carried_out() -> Mapping[str, Any]:
        return await work

    async def gone() -> None:
        while await reader.read(LINE_BYTES):
            pass  # more than one line is nothing to us

    working = asyncio.create_task(carried_out(), name=f"control {name}")
    leaving = asyncio.create_task(gone(), name="control client")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError(f"nobody waits for {name} any more")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def ask(
    path: Path, command: str, arguments: Mapping[str, Any] | None = None, *, seconds: float | None = SECONDS
) -> dict[str, Any]:
    """Asks a running sync; its answer. Cancelling it ends a command that lasts.

    Args:
        path: of the socket.
        command: see `portd.process.orders`.
        arguments: of it.
        seconds: to wait for the answer; None: for ever.

    Raises:
        OSError: nobody listens there, we may not ask, or there was no answer.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES)
        try:
            writer.write(json.dumps({"command": command, "arguments": arguments or {}}).encode() + b"\n")
            line = await reader.readline()
        except ValueError:
            line = b""
        finally:
            writer.close()
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise ConnectionError("it did not answer as portd does" if line else "it ended before it answered")
    return answer


def _refused(error: str, hint: str) -> dict[str, Any]:
    return {"ok": False, "error": error, "hint": hint}


def _peer(writer: asyncio.StreamWriter) -> dict[str, int]:
    """Who asks."""
    data = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return dict(zip(("pid", "uid", "gid"), _CREDENTIALS.unpack(data), strict=True))


def _bound(path: Path) -> socket.socket:
    """A socket that listens at a path. Its directory is locked meanwhile: of two processes that start at once neither takes
    the other's socket, which is there before anybody listens, for one that was left behind.

    Raises:
        ConfigError: something is in the way.
        OSError: it cannot be made.
    """  # noqa: D205
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _clear(path)
        bound = socket.socket(socket.AF_UNIX)
        try:
            bound.bind(str(path))
            path.chmod(0o600)  # before anybody can connect
            bound.listen()
        except BaseException:
            bound.close()
            raise
        return bound
    finally:
        os.close(directory)  # and the lock goes with it


def _clear(path: Path) -> None:
    """Removes the socket of a process that is gone.

    Raises:
        ConfigError: the path is too long, something else is there, or somebody listens.
        OSError: it cannot be looked at.
    """
    if len(os.fsencode(path)) > PATH_BYTES:
        raise ConfigError(
            f"the path of the control socket is longer than {PATH_BYTES} bytes", hint="choose a shorter one"
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is there and is no socket", hint="choose another path for control_socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise ConfigError(f"another process listens at {path}", hint="each sync needs a control_socket of its own")
