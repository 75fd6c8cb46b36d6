"""`.ci/run`: stages by name, in order, and a developer's own environment is none of its business."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
STAGES = ["install", "style", "types", "layers", "docs", "tests", "instructions", "wheel", "package", "deep", "checked"]

INSTALL = "python3 -m venv --without-pip .venv && .venv/bin/python seen.py install"
COMMAND = f"{INSTALL} && .venv/bin/python seen.py pytest"
SEEN = """\
import sys
from pathlib import Path

print("did", sys.argv[1])
print("in", Path.cwd())
print("files", *sorted(str(each) for each in Path().rglob("*") if each.is_file() and ".venv" not in each.parts))
print("prefix", sys.prefix)
print("marked", Path(".venv/mine").exists())
"""


def run(tree: Path, *stages: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the stages in *tree*."""
    return subprocess.run(
        [tree / ".ci/run", *stages],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def said(shown: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that *shown* has begun, in order."""
    return [line.split()[1].rstrip(":") for line in shown.stdout.splitlines() if line.startswith("== ")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project with a developer's `.venv`, and things that were built in it."""
    files = {
        ".venv/mine": "",
        ".git/HEAD": "",
        "README.md": f"```sh\n{COMMAND}\n```\n",
        "seen.py": SEEN,
        "pyproject.toml": "[tool.ruff]\nline-length = 120\n",
        "fine.py": "FINE = 1\n",
        "portd/kernel/unit.so": "",
        "portd/kernel/unit.c": "",
        "portd/kernel/native/ours.c": "",
        "portd/__pycache__/x.pyc": "",
    }
    root = tmp_path / "tree"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", root / ".ci/run")
    return root


@pytest.fixture
def tree_with_environment(tree: Path) -> Path:
    """The same with the environment of these tests in the place of the stages' own."""
    for path in [tree / "pyproject.toml", *tree.glob("portd/kernel/**/*")]:
        os.utime(path, (0, 0))
    binaries = tree / ".ci/work/.venv/bin"
    binaries.mkdir(parents=True)
    (tree / ".ci/work/.venv/pyvenv.cfg").touch()
    (tree / ".ci/work/gone.py").write_text("import os\n")
    (binaries / "ruff").symlink_to(Path(sys.executable).parent / "ruff")
    return tree


def test_the_stages_are_listed() -> None:
    """`--list` names what can be asked for, in the order of a whole run."""
    assert run(ROOT, "--list").stdout.split() == STAGES


def test_an_unknown_stage_runs_nothing(tree_with_environment: Path) -> None:
    """A mistyped name is not taken for a stage that has passed, and nothing runs before it is seen."""
    shown = run(tree_with_environment, "style", "stile")
    assert shown.returncode == 2
    assert said(shown) == []
    assert f"no stage stile; there are: {' '.join(STAGES)}" in shown.stderr


def test_a_stage_alone_uses_the_environment_that_is_there(tree_with_environment: Path) -> None:
    """Nothing is installed again for a look at the style of what is in the tree now, and what it finds fails it."""
    shown = run(tree_with_environment, "style", PYTHON="/bin/false")
    assert (shown.returncode, said(shown)) == (0, ["style", "done"]), shown.stderr
    (tree_with_environment / "fine.py").write_text("import os\n")
    shown = run(tree_with_environment, "style", PYTHON="/bin/false")
    assert shown.returncode != 0
    assert said(shown) == ["style"]


@pytest.mark.parametrize("stages", [[], ["style"]], ids=["all", "style"])
def test_the_environment_is_made_first_and_beside_the_developers(tree: Path, stages: list[str]) -> None:
    """All stages begin with the install, and one alone does where there is no environment; `.venv` stays."""
    shown = run(tree, *stages, PYTHON="/bin/false")
    assert shown.returncode != 0
    assert said(shown) == ["install"]
    assert (tree / ".venv/mine").exists()


def test_an_environment_older_than_its_list_is_made_again(tree_with_environment: Path) -> None:
    """What pyproject.toml asks for since then would be missing."""
    os.utime(tree_with_environment / ".ci/work/.venv/pyvenv.cfg", (0, 0))
    os.utime(tree_with_environment / "pyproject.toml")
    assert said(run(tree_with_environment, "style", PYTHON="/bin/false")) == ["install"]


def test_the_line_of_the_readme_is_what_runs_in_a_copy(tree: Path) -> None:
    """Its `.venv` is new, nothing that was built in the tree helps it to pass, and its last part runs in the same place."""
    shown = run(tree, "install", "tests")
    assert shown.returncode == 0, shown.stderr
    assert said(shown) == ["install", "tests", "done"]
    assert INSTALL in shown.stdout.splitlines()
    assert COMMAND.removeprefix(INSTALL + " && ") in shown.stdout.splitlines()
    work = tree / ".ci/work"
    files = ".ci/run README.md fine.py portd/kernel/native/ours.c pyproject.toml seen.py"
    told = ["did install", f"in {work}", f"files {files}", f"prefix {work}/.venv", "marked False"]
    told += ["did pytest", *told[1:]]
    assert [
        line for line in shown.stdout.splitlines() if line.split(" ")[0] in {"did", "in", "files", "prefix", "marked"}
    ] == told
    assert (tree / ".venv/mine").exists()


def test_a_readme_without_the_line_fails(tree: Path) -> None:
    """A reworded README must not turn the stage into one that runs nothing and passes."""
    (tree / "README.md").write_text("make test\n")
    shown = run(tree, "install")
    assert shown.returncode != 0
    assert "README.md has no line" in shown.stderr
