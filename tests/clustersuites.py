"""The servers' own tests of clusters as traffic: behind each of them, are the cluster that it made and ours equal?

``python -m tests.clustersuites TREE --source redis7.0 [--unit 04-resharding ...]``

TREE is an unpacked source release of Redis 7.0 (``tests/cluster``) or of Valkey (``tests/unit/cluster``), best of the source's
version; nothing is downloaded, and the tree is not changed. Needs ``tclsh`` and ``redis-cli``. The suite makes its clusters itself.
A hook behind each test has portd follow one as soon as it is whole, and later compares it with the target, where it is whole again and
no slot is on its way: a test may end with nodes that are dead. What the suite itself finds does not count here.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

from tests.clusters import SLOTS, Cluster, differences
from tests.clustertools import CLI
from tests.commands import run
from tests.faults.clusters import MAY_END, ends_of, has_all, is_settled
from tests.process import Portd
from tests.servers import Server, find
from tests.suites import hook, said_by

if TYPE_CHECKING:
    from tests.servers import Binary

REDIS_UNITS = (
    "02-failover", "03-failover-loop", "04-resharding", "10-manual-failover", "11-manual-takeover",
    "29-slot-migration-response",
)  # fmt: skip
VALKEY_UNITS = (
    "resharding", "cluster-migrateslots", "slot-migration", "many-slot-migration", "half-migrated-slot", "manual-failover",
    "manual-takeover", "failover", "cluster-flush-slot",
)  # fmt: skip
RESET = "hard reset"  # in the name of the test that takes a cluster apart
UNIT_SECONDS = 3600  # on a busy machine
WHOLE_SECONDS = 20.0  # until the cluster that a test leaves is whole
EQUAL_SECONDS = 240.0
OPTIONS: dict[str, object] = {"prune_limit": 100, "memory_budget": "200MiB"}
HOOK = """
proc portd_port {} {
    if {[info exists ::redis_instances] && [llength $::redis_instances]} { return [get_instance_attrib redis 0 port] }
    return [srv 0 port]
}
rename test portd_before
proc test {name args} {
    set code [catch {uplevel 1 [list portd_before $name {*}$args]} result options]
    if {$code != 1 && ![catch {portd_port} port]} {
        set hook [socket 127.0.0.1 $::env(SUITE_HOOK)]
        fconfigure $hook -encoding utf-8
        puts $hook "$port [string map {\\n " "} $name]"
        flush $hook
        gets $hook
        close $hook
    }
    if {$code == 1} { return -options $options $result }
    return -code $code $result
}
"""


@dataclass(slots=True)
class Result:
    """What came out of one unit."""

    unit: str
    tests: int = 0
    clusters: int = 0
    compared: int = 0
    letters: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    suite: str = ""

    def line(self) -> str:
        """One line of the table."""
        letters = ", ".join(f"{count} {code}" for code, count in self.letters.items()) or "none"
        exits = ", ".join(f"{count} times {code}" for code, count in self.exits.items()) or "never"
        return (
            f"{self.unit:24} {self.clusters} clusters, {self.tests} tests, {self.compared} compared, {len(self.differences)} differ, "
            f"dead letters: {letters}; portd ended by itself: {exits}; suite: {self.suite}"
        )


class FoundNode(Server):
    """A node that the suite runs, known by its port."""

    def __init__(self, binary: Binary, port: int) -> None:
        self.binary, self.port, self.config = binary, port, {}
        self._clients = []
        with redis.Redis(port=port, decode_responses=True) as client:
            told: Any = client.config_get("unixsocket") | client.config_get("dir")
        self.path = Path(told["dir"], told["unixsocket"])


class FoundCluster(Cluster):
    """A cluster that the suite runs, known by the port of one of its nodes."""

    def __init__(self, binary: Binary, port: int) -> None:
        self.binary, self.port = binary, port
        self._found = {port: FoundNode(binary, port)}

    @property
    def url(self) -> str:
        """As portd takes it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in list(self._found)[:5])

    def owners(self) -> dict[Server, list[tuple[int, int]]]:
        """Ranges of slots by node, as the first one that answers tells it."""
        for node in list(self._found.values()):
            with contextlib.suppress(OSError, redis.RedisError):
                entries = self.call(node, "CLUSTER", "SLOTS")
                owned: dict[Server, list[tuple[int, int]]] = {}
                for first, last, primary, *_ in entries:
                    owned.setdefault(self._node(int(primary[1])), []).append((first, last))
                return owned
        raise ConnectionError("no node of the cluster answers")

    def _node(self, port: int) -> Server:
        if port not in self._found:
            self._found[port] = FoundNode(self.binary, port)
        return self._found[port]

    def is_whole(self) -> bool:
        """All slots have an owner that answers, and none is on its way."""
        try:
            owned = self.owners()
            covered = sum(last - first + 1 for ranges in owned.values() for first, last in ranges)
            return covered == SLOTS and all(self._is_at_rest(node) for node in owned)
        except (OSError, redis.RedisError):
            return False

    def _is_at_rest(self, node: Server) -> bool:
        return (
            b"cluster_state:ok" in self.call(node, "CLUSTER", "INFO")
            and b"[" not in self.call(node, "CLUSTER", "NODES")
            and node.info("replication")["role"] == "master"
            and not self._has_moves(node)
        )

    def _has_moves(self, node: Server) -> bool:
        """Slots move from a node or to it in one step; the suite holds such moves up, from one test to the next."""
        if not self.binary.at_least(valkey=(9, 0)):
            return False
        moves: Any = self.call(node, "CLUSTER", "GETSLOTMIGRATIONS")
        states = {dict(zip(each[::2], each[1::2], strict=True))[b"state"] for each in moves}
        return not states <= {b"success", b"failed", b"cancelled"}


class Followed:
    """A cluster of the suite, one of ours, and the portd between them."""

    def __init__(self, source: FoundCluster, target: Binary, result: Result) -> None:
        self.source, self._result = source, result
        self._target = Cluster(target)
        self._stack = ExitStack()
        self._letters: dict[str, dict[str, int]] = {}  # of each link, by the process that runs
        result.clusters += 1

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._target)
            self._socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portd-suite-"))) / "control"
            self.portd = stack.enter_context(
                Portd(self.source.url, self._target.url, control_socket=self._socket, **OPTIONS)
            )
            self._stack = stack.pop_all()
        self._until(lambda status: all(each["phase"] == "streaming" for each in status["links"]))
        return self

    def __exit__(self, *exc: object) -> None:
        self._note_letters(self.portd.status())
        self._take_letters()
        self._stack.close()

    def _note_letters(self, status: dict[str, Any] | None) -> None:
        """They are gone with the process."""
        for link in (status or {}).get("links", ()):
            self._letters[link["link"]] = link.get("dead_letters", {})

    def _take_letters(self) -> None:
        for letters in self._letters.values():
            self._result.letters.update({code: count for code, count in letters.items() if count})
        self._letters.clear()

    def compare(self, test: str) -> None:
        """Waits until all is applied, and notes what differs then."""
        found: list[str] = []

        def equal(status: dict[str, Any]) -> bool:
            if not (is_settled(self.source, status) and has_all(ends_of(self.source), status)):
                found[:] = [f"not all has come: {status}"]
                return False
            found[:] = differences(self.source, self._target)
            return not found

        self._result.compared += 1
        if not self._until(equal):
            self._result.differences += [f"{test}: {line}" for line in found[:10]]

    def _until(self, reached: Any) -> bool:
        """Whether the status says so in time; portd is started again, and what is held let go on."""
        deadline = time.monotonic() + EQUAL_SECONDS
        while time.monotonic() < deadline:
            self._revive()
            status = self.portd.status()
            self._note_letters(status)
            if status is not None and "links" in status:
                for link in status["links"]:
                    if link["phase"] == "held":
                        run("ctl", "accept", "--socket", self._socket, "--link", link["link"], expect=None)
                with contextlib.suppress(OSError, redis.RedisError):
                    if reached(status):
                        return True
            time.sleep(0.2)
        return False

    def _revive(self) -> None:
        """What a supervisor does."""
        if self.portd.alive:
            return
        self._take_letters()
        code = self.portd.wait()
        self._result.exits[code] += 1
        if code not in MAY_END:
            self._result.differences.append(f"portd ended with {code}: {self.portd.log()[-600:]}")
        self.portd.start()


class Follower:
    """Has portd follow what the suite makes, one cluster after the other."""

    def __init__(self, source: Binary, target: Binary, logs: Path | None) -> None:
        self._source, self._target, self._logs = source, target, logs
        self.result = Result("")
        self._followed: Followed | None = None

    def behind(self, said: str) -> None:
        """A test has ended: the port of the first node of its cluster, and its name."""
        port, _, test = said.partition(" ")
        try:
            self._look(int(port), test)
        except (
            AssertionError,
            OSError,
            ValueError,
            KeyError,
            redis.RedisError,
        ) as error:  # the suite waits for an answer
            self.result.differences.append(f"{test}: no comparison: {error!r:.2000}")

    def _look(self, port: int, test: str) -> None:
        self.result.tests += 1
        if self._followed is not None and (self._followed.source.port != port or RESET in test):
            self.leave()  # its nodes make another one
        with contextlib.suppress(OSError, redis.RedisError):
            cluster = self._followed.source if self._followed is not None else FoundCluster(self._source, port)
            deadline = time.monotonic() + (WHOLE_SECONDS if self._followed is not None else 0)
            while not (whole := cluster.is_whole()) and time.monotonic() < deadline:
                time.sleep(0.2)
            if not whole:
                return
            if self._followed is None:
                self._followed = Followed(cluster, self._target, self.result)
                self._followed.__enter__()
            self._followed.compare(test)

    def leave(self) -> None:
        """The cluster is gone."""
        if self._followed is None:
            return
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            name = self.result.unit.rpartition("/")[2]
            (self._logs / f"{name}-{self.result.clusters}.portd").write_text(self._followed.portd.log())
        self._followed.__exit__()
        self._followed = None


def prepared(tree: Path, directory: Path, server: str) -> Path:
    """A copy of the suite with the hook in it, and programs where it expects them."""
    if CLI is None:
        raise SystemExit("clustersuites: there is no redis-cli on the PATH")
    shutil.copytree(tree / "tests", directory / "tests", ignore=shutil.ignore_patterns("modules"), symlinks=True)
    (directory / "src").mkdir()
    for family in ("redis", "valkey"):
        for name in ("server", "benchmark", "check-aof", "check-rdb", "sentinel"):
            (directory / "src" / f"{family}-{name}").symlink_to(server)
        (directory / "src" / f"{family}-cli").symlink_to(CLI)
    for folder in ("tests/tmp", "tests/cluster/tmp"):
        (directory / folder).mkdir(exist_ok=True, parents=True)
    old = directory / "tests" / "cluster" / "run.tcl"
    with (directory / "tests" / ("instances.tcl" if old.exists() else "support/test.tcl")).open("a") as file:
        file.write(HOOK)
    return directory


def words(tree: Path, unit: str) -> list[str]:
    """The command that runs one unit."""
    if (tree / "tests" / "cluster" / "run.tcl").exists():
        return ["tclsh", "tests/cluster/run.tcl", "--single", unit, "--config", "unixsocket", "socket"]
    return ["tclsh", "tests/test_helper.tcl", "--single", f"unit/cluster/{unit}", "--clients", "1", "--durable"]


def run_unit(tree: Path, follower: Follower, unit: str, port: int, logs: Path | None) -> Result:
    """Runs one unit of the suite, and compares."""
    follower.result = result = Result(unit)
    said = said_by(words(tree, unit), tree, port, UNIT_SECONDS)
    follower.leave()
    good, bad = (len(re.findall(word, said)) for word in (r"\[ok\]|: OK$|W*OK\n", r"\[err\]|\[exception\]|FAILED"))
    result.suite = f"{good} ok, {bad} failed"
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{unit}.suite").write_text(said)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Runs it all; 1 when anything differed, or a unit was not compared at all."""
    parser = argparse.ArgumentParser(prog="python -m tests.clustersuites", description=__doc__.split("\n")[0])
    parser.add_argument("tree", type=Path, help="an unpacked source release")
    parser.add_argument("--source", required=True, help="a server at hand, as redis7.0")
    parser.add_argument("--target", default="valkey", help="a server at hand; the newest Valkey when absent")
    parser.add_argument("--unit", action="append", default=[], help="one of the suite's units")
    parser.add_argument("--logs", type=Path, help="the suite's own output and portd's log are kept here")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and leave nothing running
    source, target = find(options.source), find(options.target)
    if source is None or target is None:
        raise SystemExit("clustersuites: no such server at hand\nHINT: PORTD_TEST_SERVERS=/path/to/it")
    results: list[Result] = []
    follower = Follower(source, target, options.logs)
    with tempfile.TemporaryDirectory(prefix="suites-") as directory, hook(follower.behind) as port:
        tree = prepared(options.tree, Path(directory), source.path)
        known = VALKEY_UNITS if source.valkey else REDIS_UNITS
        for unit in options.unit or known:
            result = run_unit(tree, follower, unit, port, options.logs)
            results.append(result)
            print(result.line(), flush=True)
            for line in result.differences:
                print(f"    {line}", flush=True)
    return 1 if any(result.differences or not result.compared for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
