"""What tests of `portd cutover` do: clients that write all the while, and the command itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

from tests.commands import command, environment
from tests.servers import PATIENCE_SECONDS, wait_for_sync

if TYPE_CHECKING:
    from tests.process import Portd
    from tests.servers import Server

USER, SECRET = "app", "app-secret"


class Writers:
    """Clients of a server, each of which increments counters and changes other keys until it is refused, or told to stop.

    Args:
        server: the one; from Redis 6.0 on they have a user of their own.
        clients: how many.
        expiring: some of their keys live for a moment.

    Attributes:
        acknowledged: what the server has said it did, by key.
        refused: what it said instead, in the end.
    """

    def __init__(self, server: Server, clients: int = 4, *, expiring: bool = True) -> None:
        self.acknowledged: Counter[str] = Counter()
        self.refused: list[str] = []
        self._server = server
        self._expiring = expiring
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._named = server.binary.at_least(redis=(6, 0), valkey=(0,))
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        if self._named:
            server: Any = self._server.client()
            rules = (
                "reset",
                "on",
                f">{SECRET}",
                "~*",
                "+@all",
                "-@dangerous",
                *(("&*",) if self._has_channels else ()),
            )
            server.execute_command("ACL", "SETUSER", USER, *rules)
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """They stop, also those that wait; idempotent."""
        self._stop.set()
        for each in self._threads:
            each.join(PATIENCE_SECONDS)
            assert not each.is_alive(), "a client waits for ever"

    def moved(self, past: int = 50) -> bool:
        """Waits until they have written more; so writes go on."""
        before = self.total
        return bool(wait_for_sync(lambda: self.total > before + past))

    @property
    def total(self) -> int:
        """Writes that were acknowledged."""
        return sum(self.acknowledged.values())

    @property
    def _has_channels(self) -> bool:
        return self._server.binary.at_least(redis=(6, 2), valkey=(0,))

    def _write(self, number: int) -> None:
        login: dict[str, Any] = {"username": USER, "password": SECRET} if self._named else {}
        client = redis.Redis(unix_socket_path=str(self._server.path), protocol=2, **login)
        turn = 0
        try:
            while not self._stop.is_set():
                turn += 1
                key = f"counter:{number}:{turn % 50}"
                client.incr(key)
                with self._lock:
                    self.acknowledged[key] += 1
                if turn % 7 == 0:
                    client.rpush(f"list:{number}", turn)
                    client.ltrim(f"list:{number}", -20, -1)
                if turn % 11 == 0 and self._expiring:
                    client.set(f"passing:{number}:{turn % 30}", turn, px=1500)
                if turn % 13 == 0:
                    client.hset(f"hash:{number}", f"field:{turn % 9}", turn)
                    client.xadd(f"stream:{number}", {"turn": turn}, maxlen=10)
        except redis.RedisError as error:
            with self._lock:
                self.refused.append(str(error))
        finally:
            client.close()

    def assert_all_in(self, target: Server) -> None:
        """Nothing that was acknowledged is missing there, and nothing is there that was not."""
        client = target.client()
        found = {key: int(client.get(key) or 0) for key in self.acknowledged}
        assert found == dict(self.acknowledged)


class CutOver:
    """One `portd cutover` that runs; a context manager that leaves no process behind.

    Args:
        source: of the sync.
        target: likewise.
        socket: of the sync.
        options: further flags; underscores become dashes, True is a flag without a value, a list one that is repeated.
    """

    def __init__(self, source: Server | str, target: Server | str, socket: Path, **options: object) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="portd-test-")
        folder = Path(self._directory.name)
        self._log, self._report = folder / "log", folder / "report.json"
        ends = {name: getattr(end, "url", end) for name, end in (("source", source), ("target", target))}
        flags = {**ends, "control_socket": socket, "report": self._report, "spool_dir": folder, **options}
        words: list[str] = []
        for name, value in flags.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", *([] if each is True else [str(each)])]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command("cutover", *words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._directory.cleanup()

    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    def until(self, words: str) -> None:
        """Waits until it has said that."""
        wait_for_sync(lambda: words in self.log() or self.process.poll() is not None, dump=self.log)
        assert words in self.log(), self.log()

    def end(self, expect: int) -> dict[str, Any]:
        """Waits for its end; its report, {} where there is none."""
        code = self.process.wait(PATIENCE_SECONDS)
        assert code == expect, self.log()
        if not self._report.exists():
            return {}
        report: dict[str, Any] = json.loads(self._report.read_text())
        inside = {name: value for name, value in report.items() if name not in {"digest", "signature"}}
        told = json.dumps(inside, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert report["digest"] == "sha256:" + hashlib.sha256(told).hexdigest()
        assert report["exit_code"] == code
        return report


def cut_over(
    source: Server | str, target: Server | str, socket: Path, expect: int = os.EX_OK, **options: object
) -> dict[str, Any]:
    """Runs it to its end; the report."""
    with CutOver(source, target, socket, **options) as running:
        return running.end(expect)


def streaming(portd: Portd) -> None:
    """Waits until the sync streams."""
    portd.until(lambda status: status["phase"] == "streaming" and not status["expiries_to_correct"])


def python(code: str) -> str:
    """A command line for a shell that runs some lines."""
    return f"{sys.executable} -c '{code}'"
