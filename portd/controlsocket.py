"""The control socket: a running sync takes a word from an operator through a unix socket.

One line of JSON each way, then the connection is closed::

    {"command": "accept", "arguments": {}}
    {"ok": true, "link": "default", "text": "..."}
    {"ok": false, "error": "nothing is held", "hint": "..."}

``arguments`` may be left out. What else an answer holds is the command's; `text` is the same for people. The file
belongs to the user that runs the sync, and only that one and root can open it (mode 0600): there is no other login. Who
asked is logged, as the kernel tells it (``SO_PEERCRED``).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any, Final

from portd.errors import ConfigError
from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = get_logger("control")

LINE_BYTES: Final = 64 * 1024  # of a question or an answer
SECONDS: Final = 10.0  # for either
CLIENTS: Final = 8  # at a time
CROWDED_SECONDS: Final = 1.0  # for those beyond
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


class ControlSocket:
    """Listens at a path and answers.

    Args:
        path: of the socket; a file that a killed process left there is replaced.
        commands: what each name does; gets the arguments, returns what the answer holds, may raise `Refusal`.
    """

    def __init__(self, path: Path, commands: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]) -> None:
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._clients = 0

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question and its answer."""
        self._clients += 1
        try:
            crowded = self._clients > CLIENTS
            async with asyncio.timeout(CROWDED_SECONDS if crowded else SECONDS):
                line = await reader.readline()  # also of one that is refused: an unread line would cost it the answer
                answer = (
                    _refused("too many clients at a time", "try again")
                    if crowded
                    else self._answer(line, _peer(writer))
                )
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ValueError:  # readline's word for a line that is too long
            log.warning("control socket: a line is too long", bytes=LINE_BYTES)
        except (TimeoutError, OSError) as error:
            log.warning("control socket: a client went away", error=str(error) or "it was silent")
        finally:
            self._clients -= 1
            writer.close()

    def _answer(self, line: bytes, peer: Mapping[str, int]) -> dict[str, Any]:
        try:
            question = json.loads(line)
        except ValueError:
            question = None
        question = question if isinstance(question, dict) else {}
        name, arguments = question.get("command"), question.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            log.warning("control socket: not a question", **peer)
            return _refused("that is no question", 'one line: {"command": "accept", "arguments": {}}')
        command = self._commands.get(name)
        if command is None:
            log.warning("control command is not known", command=name[:40], **peer)
            return _refused(f"there is no command {name[:40]!r}", f"there is {', '.join(self._commands)}")
        try:
            said = command(arguments)
        except Refusal as refusal:
            log.warning("control command refused", command=name, error=str(refusal), **peer)
            return _refused(str(refusal), refusal.hint)
        log.warning("control command", command=name, **peer)
        return {"ok": True, **said}


def ask(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Asks a running sync; its answer.

    Raises:
        OSError: nobody listens there, we may not ask, or there was no answer.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        client.sendall(json.dumps({"command": command, "arguments": arguments or {}}).encode() + b"\n")
        with client.makefile("rb") as stream:
            line = stream.readline(LINE_BYTES)
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise ConnectionError("it did not answer as portd does")
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
