"""`portd sync` as a process of its own, the way operators run it: start, ask, stop, kill."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.commands import command, environment
from tests.servers import PATIENCE_SECONDS, free_port, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.servers import Server


class Portd:
    """One `portd sync`; a context manager that leaves no process behind.

    Args:
        source: server to read, or a URL.
        target: server to write, or a URL.
        options: further flags; underscores become dashes, True is a flag without a value, a list one that is repeated.
    """

    def __init__(self, source: Server | str, target: Server | str, **options: object) -> None:
        ends = {"source": source, "target": target}
        flags: dict[str, object] = {name: end if isinstance(end, str) else end.url for name, end in ends.items()}
        self._directory = tempfile.TemporaryDirectory(prefix="portd-test-")
        self._set_up({**flags, **options})

    def _set_up(self, flags: dict[str, object]) -> None:
        """The command and where it logs to."""
        self.http = f"127.0.0.1:{free_port()}"
        words = []
        for name, value in {"http": self.http, **flags}.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", *([] if each is True else [str(each)])]
        self.command = command("sync", *words)
        self.log_path = Path(self._directory.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts it; what an earlier run logged stays."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
            self.wait()
        self._directory.cleanup()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process; it must have been started."""
        assert self._process is not None
        return self._process

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Waits for its end; the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"portd did not end within {timeout} s\n{self.log()}") from None

    def terminate(self) -> int:
        """SIGTERM, and waits for the end; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def log(self) -> str:
        """Everything it logged; "" before it was started."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def get(self, page: str, accept: str = "application/json", method: str = "GET") -> str:
        """One page, as text.

        Raises:
            OSError: it does not listen (yet).
        """
        request = urllib.request.Request(f"http://{self.http}/{page}", headers={"Accept": accept}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            text: str = response.read().decode()
            return text

    def status(self) -> dict[str, Any] | None:
        """``/status``; None while it does not listen."""
        try:
            status: dict[str, Any] = json.loads(self.get("status"))
        except OSError:
            return None
        return status

    def readyz(self) -> tuple[int, str]:
        """Code and text of ``/readyz``."""
        try:
            return 200, self.get("readyz")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until(self, reached: Callable[[dict[str, Any]], bool], timeout: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Waits until the status says so; the status then."""

        def asked() -> dict[str, Any] | None:
            if not self.alive:
                raise AssertionError(f"portd ended with {self.process.returncode}\n{self.log()}")
            status = self.status()
            return status if status is not None and reached(status) else None

        found = wait_for_sync(asked, timeout, dump=lambda: f"{self.status()}\n{self.log()}")
        assert found is not None
        return found

    def until_applied(self, source: Server) -> dict[str, Any]:
        """Waits until everything the source has written so far is in the target."""
        end = int(source.client().info("replication")["master_repl_offset"])
        return self.until(lambda status: status["stream"]["checkpointed_offset"] >= end)


class Notified:
    """Receives what a service tells systemd.

    Args:
        path: of the socket, which is made.

    Attributes:
        address: the same, for `NOTIFY_SOCKET`.
        seen: all that came.
    """

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.seen: list[str] = []

    def until(self, beginning: str) -> str:
        """The next message that begins so; fails after 20 s."""
        while True:
            self.seen.append(self._socket.recv(4096).decode())
            if self.seen[-1].startswith(beginning):
                return self.seen[-1]

    def close(self) -> None:
        """Stops listening."""
        self._socket.close()


class Links(Portd):
    """One process with several links, from a file.

    Args:
        tables: settings of each link by its name; servers stand for their URLs.
        options: flags: of the process.

    Attributes:
        file: the TOML file.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, object]], **options: object) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="portd-test-")
        self.file = Path(self._directory.name) / "portd.toml"
        self.write(tables)
        self._set_up({"config": self.file, **options})

    def write(self, tables: Mapping[str, Mapping[str, object]]) -> None:
        """Writes the file anew."""
        text = ""
        for name, values in tables.items():
            text += f"[[link]]\nname = {json.dumps(name)}\n"
            for key, value in values.items():
                text += f"{key} = {json.dumps(value if isinstance(value, (bool, int, float, list)) else _url(value))}\n"
        self.file.write_text(text)

    def of(self, link: str) -> dict[str, Any]:
        """``/status`` of one link."""
        status: dict[str, Any] = json.loads(self.get(f"status?link={link}"))
        return status

    def until_link(self, link: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the status of one link says so; that status then."""
        status = self.until(lambda all_links: reached(_named(all_links, link)))
        return _named(status, link)

    def until_link_applied(self, link: str, source: Server) -> dict[str, Any]:
        """Waits until everything *source* has written so far is in the link's target."""
        end = int(source.client().info("replication")["master_repl_offset"])
        return self.until_link(link, lambda status: status["stream"]["checkpointed_offset"] >= end)


def streaming(status: Mapping[str, Any]) -> bool:
    """The target has caught up."""
    return bool(status["phase"] == "streaming")


def _named(status: dict[str, Any], link: str) -> dict[str, Any]:
    return next(each for each in status["links"] if each["link"] == link)


def _url(value: object) -> str:
    return str(getattr(value, "url", value))
