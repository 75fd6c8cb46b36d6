"""What tests of `portd cutover` do: clients that write all the while, and the command itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

from portd.cli.extra_flags import ALL_RULES
from portd.config.load import load_settings
from portd.cutover.cutover import Cutover
from portd.cutover.options import Options
from portd.cutover.sync import Sync
from portd.kernel.slots import key_slot
from portd.log import configure
from portd.net.endpoint import Endpoint
from tests.commands import command, environment
from tests.servers import PATIENCE_SECONDS, Server, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.cutover.report import Report
    from tests.clusters import Cluster
    from tests.process import Portd

USER, SECRET = "app", "app-secret"


class Writers:
    """Clients of a server, each of which increments counters and changes other keys until it is refused, or told to stop.

    Args:
        server: the one; from Redis 6.0 on they have a user of their own.
        clients: how many.
        expiring: some of their keys live for a moment.
        tags: what each client's names begin with, in turn: of a cluster, hash tags of slots that the server has.

    Attributes:
        acknowledged: what the server has said it did, by key.
        refused: what it said instead, in the end.
    """

    def __init__(self, server: Server, clients: int = 4, *, expiring: bool = True, tags: Sequence[str] = ("",)) -> None:
        self.acknowledged: Counter[str] = Counter()
        self.refused: list[str] = []
        self._server = server
        self._expiring = expiring
        self._tags = tags
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
        turn, tag = 0, self._tags[number % len(self._tags)]
        try:
            while not self._stop.is_set():
                turn += 1
                key = f"{tag}counter:{number}:{turn % 50}"
                client.incr(key)
                with self._lock:
                    self.acknowledged[key] += 1
                if turn % 7 == 0:
                    client.rpush(f"{tag}list:{number}", turn)
                    client.ltrim(f"{tag}list:{number}", -20, -1)
                if turn % 11 == 0 and self._expiring:
                    client.set(f"{tag}passing:{number}:{turn % 30}", turn, px=1500)
                if turn % 13 == 0:
                    client.hset(f"{tag}hash:{number}", f"field:{turn % 9}", turn)
                    client.xadd(f"{tag}stream:{number}", {"turn": turn}, maxlen=10)
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


class ClusterWriters:
    """`Writers` at each primary of a cluster; a context manager.

    Args:
        cluster: the one.

    Attributes:
        at: those of each primary.
    """

    def __init__(self, cluster: Cluster, *, expiring: bool = True) -> None:
        self.at: dict[Server, Writers] = {}
        self._cluster = cluster
        for node, ranges in cluster.owners().items():
            tags = (f"{{w{number}}}" for number in range(10_000))
            mine = (tag for tag in tags if any(a <= key_slot(tag.encode()) <= b for a, b in ranges))
            self.at[node] = Writers(node, 2, expiring=expiring, tags=[next(mine), next(mine)])

    def __enter__(self) -> Self:
        for each in self.at.values():
            each.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """They stop; idempotent."""
        for each in self.at.values():
            each.end()

    def moved(self, past: int = 20) -> bool:
        """Waits until more was written at every primary; so writes go on at all of them."""
        return all(each.moved(past) for each in self.at.values())

    def refused(self) -> list[str]:
        """What clients of all primaries were told in the end."""
        return [text for each in self.at.values() for text in each.refused]

    def assert_all_in(self, target: Server | Cluster) -> None:
        """Nothing that was acknowledged anywhere is missing there, and nothing is there that was not."""
        for each in self.at.values():
            if isinstance(target, Server):
                each.assert_all_in(target)
            else:
                found = {key: int(target.get("GET", key) or 0) for key in each.acknowledged}
                assert found == dict(each.acknowledged)


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


Moment = Callable[[], Awaitable[None]]


class Moments(Sync):
    """The sync, as a cut-over speaks to it in a process of the test, which does something at some moments of it.

    Args:
        path: of the control socket.
        link: its name.
        before: when both ends were compared, and it was found that writes can be stopped.
        standing: when they are stopped, before anything is waited for.
        ending: when all is proven, before the links end.
    """

    def __init__(
        self,
        path: Path,
        link: str = "default",
        *,
        before: Moment | None = None,
        standing: Moment | None = None,
        ending: Moment | None = None,
    ) -> None:
        super().__init__(path, link)
        self.cutover: Cutover | None = None
        self._before, self._standing, self._ending = before, standing, ending

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """See `Sync`."""
        found = await super().statuses()
        assert self.cutover is not None
        if self._before is not None and "compared" in self.cutover.report.times:
            act, self._before = self._before, None
            await act()
        return found

    async def drain(self, link: str, offset: int, seconds: float) -> int:
        """See `Sync`."""
        if self._standing is not None:
            act, self._standing = self._standing, None
            await act()
        return await super().drain(link, offset, seconds)

    async def hand_over(self, seconds: float) -> dict[str, Mapping[str, Any]]:
        """See `Sync`."""
        if self._ending is not None:
            await self._ending()
        return await super().hand_over(seconds)


async def cut_over_here(
    source: str,
    target: str,
    path: Path,
    moments: Moments,
    *,
    primary: str = "",
    given: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """A cut-over in this process; its report.

    Args:
        source: URL.
        target: likewise.
        path: of the control socket.
        moments: what is done meanwhile.
        primary: URL of it, of a source that is a replica.
        given: further settings.
        options: see `Options`.
    """
    flags = {"source": source, "target": target, "spool_dir": path.parent, **(given or {})}
    there = Endpoint.parse(primary) if primary else None
    cutover = moments.cutover = Cutover(load_settings(flags, None, ALL_RULES), Options(**options), moments, there)
    return await cutover.run()


def streaming(portd: Portd) -> None:
    """Waits until the sync streams."""
    portd.until(lambda status: status["phase"] == "streaming" and not status["expiries_to_correct"])


def python(code: str) -> str:
    """A command line for a shell that runs some lines."""
    return f"{sys.executable} -c '{code}'"


async def _stand_still_for_ever(source: str, target: str, path: Path) -> None:
    """A cut-over that says when writes stand still, and does nothing more: for tests that kill it then."""

    async def standing() -> None:
        sys.stdout.write("stands still\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    await cut_over_here(source, target, path, Moments(path, standing=standing), most_seconds=600.0)


if __name__ == "__main__":
    configure("logfmt", "info")  # to standard error
    asyncio.run(_stand_still_for_ever(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
