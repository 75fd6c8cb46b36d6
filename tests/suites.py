"""A server's own test suite as traffic: after each of its tests, are both ends of a sync equal?

``python -m tests.suites TREE --source redis7.0 --target redis6.2 [--unit unit/type/hash ...]``

TREE is an unpacked source release of Redis or Valkey, best of the source's version; nothing is downloaded, and the tree
is not changed. Needs ``tclsh``. The suite runs against a server that is there already (its ``--host`` mode), a portd
carries what it writes to the target, and a hook behind each test waits until all is applied and compares both ends. What
the source does not tell its replicas (how often a pending entry was read again) cannot arrive: where the ends differ, the
target is compared with a replica of the source.
What the suite itself finds does not count here: a server of another version fails some of its tests.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis

from tests.compare import LOSSES, compare
from tests.process import Portd
from tests.servers import Server, find, free_port, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Units that write through one server, without replicas, files and settings of their own.
UNITS = (
    "type/string", "type/incr", "type/list", "type/list-2", "type/list-3", "type/set", "type/zset", "type/hash",
    "type/hash-ttl", "type/hash-field-expire", "type/stream", "type/stream-cgroups", "hashexpire", "keyspace", "expire", "multi", "scripting",
    "functions", "other", "geo", "hyperloglog", "sort", "bitops", "bitfield", "dump", "scan", "introspection-2",
    "info-keysizes", "querybuf", "protocol", "pubsub", "tracking", "lazyfree", "latency-monitor", "acl",
)  # fmt: skip
# Tests that hold the server up, end it, or take long for what they write.
PASSED_OVER = ("/.*(SHUTDOWN|DEBUG sleep|big |large|huge|stress|fuzz|4GB|5gb|SIGTERM|client-output-buffer).*",)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
EQUAL_SECONDS = 6.0  # expiries may still be on their way from one end to the other
APPLIED_SECONDS = 60.0
UNIT_SECONDS = 200
HOOK = """
rename test portd_before
proc test {name args} {
    set result [uplevel 1 [list portd_before $name {*}$args]]
    if {![info exists ::portd_inside]} {
        set hook [socket 127.0.0.1 $::env(SUITE_HOOK)]
        fconfigure $hook -encoding utf-8
        puts $hook [string map {\\n " "} $name]
        flush $hook
        gets $hook
        close $hook
    }
    return $result
}
"""


@dataclass(slots=True)
class Result:
    """What came out of one unit."""

    unit: str
    compared: int = 0
    passed: int = 0
    failed: int = 0
    ended: bool = False
    letters: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    syncs: int = 0

    def line(self) -> str:
        """One line of the table."""
        letters = ", ".join(f"{count} {code}" for code, count in self.letters.items()) or "none"
        end = "" if self.ended else ", not to its end"
        return (
            f"{self.unit:22} {self.compared:5} compared, {len(self.differences)} differ, dead letters: {letters}; "
            f"suite: {self.passed} ok, {self.failed} failed{end}"
        )


class Pair:
    """Two servers and the portd between them.

    Args:
        source: name of a server at hand, as ``redis7.0``.
        target: another one, or the same.
        losses: differences that an old target cannot be without do not count.
    """

    def __init__(self, source: str, target: str, *, losses: bool) -> None:
        ends = [find(name) for name in (source, target)]
        for name, binary in zip((source, target), ends, strict=True):
            if binary is None:
                raise SystemExit(f"suites: no server {name} at hand\nHINT: PORTD_TEST_SERVERS=/path/to/it")
        first, second = ends
        self._losses = losses
        self.source = Server(first, databases=16, maxmemory_policy="noeviction")
        self.target = Server(second, databases=16)
        self.replica = Server(first, databases=16)
        self.result = Result("")
        self._known: set[str] = set()  # differences that were told already

    def __enter__(self) -> Self:
        self.source.__enter__()
        self.target.__enter__()
        self.replica.__enter__()
        self.replica.replicate(self.source)
        self.portd = Portd(self.source, self.target).start()
        self.portd.until(lambda status: bool(status["phase"] == "streaming"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.portd.__exit__(*exc)
        for server in (self.replica, self.target, self.source):
            server.close()

    def compare(self, test: str) -> None:
        """Waits until all is applied, and notes what differs then."""
        seen: list[str] = []
        try:
            self._applied()
            deadline = time.monotonic() + EQUAL_SECONDS
            while seen := self._differences():
                if time.monotonic() > deadline or self._known.issuperset(seen):
                    break
                time.sleep(0.2)
                self._applied()
        except (AssertionError, OSError, redis.RedisError) as error:
            seen = [f"no comparison: {error!r:.4000}"]
        self.result.compared += 1
        self.result.differences += [f"{test}: {line}" for line in seen if line not in self._known]
        self._known.update(seen)

    def _applied(self) -> None:
        """All that the source has written so far is in the target."""
        end = int(self.source.info("replication")["master_repl_offset"])
        self.portd.until(
            lambda status: bool(status["phase"] == "streaming" and status["stream"]["checkpointed_offset"] >= end),
            APPLIED_SECONDS,
        )
        wait_for_sync(lambda: int(self.replica.info("replication").get("slave_repl_offset", 0)) >= end, APPLIED_SECONDS)

    def _differences(self) -> list[str]:
        """What differs from the source, and from what a replica of it has made of the same stream."""
        lines = compare(self.source, self.target, postponed=True)
        if lines:
            others = compare(self.replica, self.target, postponed=True)
            lines = [line for line in lines if line in others]
        return [line for line in lines if not (self._losses and LOSSES.search(line))]

    def letters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Dead letters by code, and attributes dropped, since portd began."""
        status = self.portd.status() or {}
        return status.get("dead_letters", {}), status.get("attributes_dropped", {})


@contextlib.contextmanager
def hook(behind: Callable[[str], None]) -> Iterator[int]:
    """The port that the suite asks after each test; it waits until what it says has been dealt with."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            behind(self.rfile.readline().decode(errors="replace").strip())
            with contextlib.suppress(OSError):
                self.wfile.write(b"done\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="suite-hook", daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def said_by(words: list[str], tree: Path, port: int, seconds: float) -> str:
    """What a suite says that runs in a tree with its hook; nothing that it began is left running."""
    with subprocess.Popen(
        words, cwd=tree, env=os.environ | {"SUITE_HOOK": str(port)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        timer = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        try:
            said = process.communicate()[0]
        finally:
            timer.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return COLOURS.sub("", said.decode(errors="replace"))


def prepared(tree: Path, directory: Path, server: str) -> Path:
    """A copy of the suite with the hook in it, and the server where it expects its programs."""
    helper = tree / "tests" / "test_helper.tcl"
    if not helper.exists():
        raise SystemExit(f"suites: {helper} does not exist\nHINT: TREE is an unpacked source release")
    shutil.copytree(tree / "tests", directory / "tests", ignore=shutil.ignore_patterns("modules"))
    (directory / "src").mkdir()
    for name in ("server", "cli", "benchmark", "check-aof", "check-rdb", "sentinel"):
        (directory / "src" / f"valkey-{name}").symlink_to(server)
    (directory / "tests" / "tmp").mkdir(exist_ok=True)
    with (directory / "tests" / "support" / "test.tcl").open("a") as file:
        file.write(HOOK)
    copied = directory / "tests" / "test_helper.tcl"
    # Before 6.0 its clients are told to begin servers at a port of theirs, and take it for the one that is there already.
    copied.write_text(copied.read_text().replace("--client $port --port $start_port", "--client $port"))
    return directory


def names(tree: Path, wanted: list[str]) -> list[str]:
    """The units to run that the tree has."""
    units = wanted or [f"unit/{name}" for name in UNITS]
    return [unit for unit in units if (tree / "tests" / f"{unit}.tcl").exists()]


def run_unit(tree: Path, pair: Pair, unit: str, port: int) -> Result:
    """Runs one unit of the suite and compares after each of its tests."""
    letters, dropped = map(collections.Counter, pair.letters())
    pair.result = Result(unit)
    words = ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(pair.source.port)]
    helper = (tree / "tests" / "test_helper.tcl").read_text()
    words += ["--durable"] if "--durable" in helper else []
    words += ["--baseport", str(free_port())] if "--baseport" in helper else []  # several may run at once
    words += ["--single", unit, "--tags", "-slow -large-memory -repl -cluster -needs:reset -tls"]
    for each in PASSED_OVER if "--skiptest" in helper else ():
        words += ["--skiptest", each]
    said = said_by(words, tree, port, UNIT_SECONDS)
    (tree / f"{unit.replace('/', '-')}.log").write_text(said)
    result = pair.result
    result.passed = len(re.findall(r"\[ok\]", said))
    result.failed = len(re.findall(r"\[err\]|\[exception\]", said))
    result.ended = "Test Summary" in said or "All tests passed" in said or "!!! WARNING" in said
    if not result.ended:
        sys.stderr.write(said[-1500:])
    pair.compare("end of the unit")
    after, lost = map(collections.Counter, pair.letters())
    result.letters, result.dropped = dict(after - letters), dict(lost - dropped)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Runs it all; 1 when anything differed, or a unit did not get to its end."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__.split("\n")[0])
    parser.add_argument("tree", type=Path, help="an unpacked source release")
    parser.add_argument("--source", required=True, help="a server at hand, as redis7.0")
    parser.add_argument("--target", required=True, help="a server at hand")
    parser.add_argument(
        "--unit", action="append", default=[], help="one of the suite's units; all that fit when absent"
    )
    parser.add_argument("--logs", type=Path, help="the suite's own output and portd's log are kept here")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and leave nothing running
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="suites-") as directory:
        binary = find(options.source)
        tree = prepared(options.tree, Path(directory), binary.path if binary is not None else "")
        for unit in names(tree, options.unit):
            pair = Pair(options.source, options.target, losses=options.source != options.target)
            with pair, hook(pair.compare) as port:
                result = run_unit(tree, pair, unit, port)
                results.append(result)
                print(result.line(), flush=True)
                for line in result.differences:
                    print(f"    {line}", flush=True)
                _keep(tree, options.logs, unit, pair)
    return 1 if any(result.differences or not result.ended for result in results) else 0


def _keep(tree: Path, logs: Path | None, unit: str, pair: Pair) -> None:
    """Keeps what was said."""
    if logs is None:
        return
    logs.mkdir(parents=True, exist_ok=True)
    name = unit.replace("/", "-")
    shutil.copy(tree / f"{name}.log", logs / f"{name}.suite")
    (logs / f"{name}.portd").write_text(pair.portd.log())


if __name__ == "__main__":
    sys.exit(main())
