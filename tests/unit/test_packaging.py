"""The package: every unit is built, what ships is complete, and a machine without a compiler is told so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "portd/kernel"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project's metadata."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def cimported(unit: Path, seen: set[Path]) -> set[Path]:
    """The files that *unit* pulls in when it is compiled: .pxd of the kernel and C headers."""
    text = unit.read_text(encoding="utf-8")
    for names in re.findall(r"^\s*(?:from portd\.kernel\.|cimport portd\.kernel\.)(\w+)", text, re.MULTILINE):
        path = KERNEL / f"{names}.pxd"
        if path.exists() and path not in seen:
            seen.add(path)
            cimported(path, seen)
    seen.update(KERNEL / header for header in re.findall(r'cdef extern from "(native/[^"]+)"', text))
    own = unit.with_suffix(".pxd")
    if own.exists() and own not in seen:
        seen.add(own)
        cimported(own, seen)
    return seen


def test_every_unit_of_the_kernel_is_listed(project: dict[str, Any]) -> None:
    """A .pyx without an entry would be missing from the wheel."""
    listed = {name for entry in project["tool"]["setuptools"]["ext-modules"] for name in entry["sources"]}
    assert listed == {str(path.relative_to(ROOT)) for path in KERNEL.glob("*.pyx")}


def test_entries_name_what_the_compiler_reads(project: dict[str, Any]) -> None:
    """A changed header or declaration rebuilds the units that use it; the warnings are on for each."""
    for entry in project["tool"]["setuptools"]["ext-modules"]:
        unit = ROOT / entry["sources"][0]
        assert entry["name"] == f"portd.kernel.{unit.stem}"
        needed = {path for path in cimported(unit, set()) if path.suffix == ".h"} | {
            path for path in [unit.with_suffix(".pxd")] if path.exists()
        }
        assert {str(path.relative_to(ROOT)) for path in needed} <= set(entry["depends"]), entry["name"]
        assert all((ROOT / path).exists() for path in entry["depends"]), entry["name"]
        assert {"-Wall", "-Wextra"} <= set(entry["extra-compile-args"]), entry["name"]
        assert "optional" not in entry  # it would install a portd without its kernel and say nothing


def copy_tree(to: Path) -> Path:
    """What a build needs, without what was built before."""
    shutil.copytree(ROOT / "portd", to / "portd", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def leave_one_unit(tree: Path) -> None:
    """Takes all units but a small one out of the project: translating the others is not what is tested."""
    project = tree / "pyproject.toml"
    text = project.read_text()
    entries = re.findall(r"\[\[tool\.setuptools\.ext-modules\]\]\n(?:.+\n)+", text)
    for entry in entries:
        if '"portd.kernel.crc64"' not in entry:
            text = text.replace(entry, "")
    project.write_text(text)


def build(tree: Path, call: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Calls the build backend as pip does."""
    code = f"from setuptools import build_meta; print(build_meta.{call})"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CC": "/bin/false"}, "the C compiler does not work: /bin/false"),
        ({"PATH": "/nowhere"}, "there is no C compiler: "),
    ],
)
@pytest.mark.parametrize("call", ["build_wheel('dist')", "build_editable('dist')"])
def test_without_a_compiler_the_install_says_what_to_install(
    tmp_path: Path, call: str, environment: dict[str, str], words: str
) -> None:
    """No half of a portd is installed; the last lines name the packages to install."""
    if "PATH" in environment and Path(str(sysconfig.get_config_var("CC")).split()[0]).is_absolute():
        environment = {"CC": "gcc", **environment}  # this Python would find its compiler without a PATH
    tree = copy_tree(tmp_path)
    leave_one_unit(tree)
    shown = build(tree, call, **environment)
    assert shown.returncode != 0
    assert words in shown.stderr
    assert "HINT: install a C compiler" in shown.stderr
    assert "apt-get install gcc" in shown.stderr
    assert not list(tmp_path.glob("dist/*.whl"))


def test_a_unit_that_does_not_compile_is_not_blamed_on_the_machine(tmp_path: Path) -> None:
    """Where a compiler works, the compiler's own message stands, without the hint."""
    tree = copy_tree(tmp_path)
    header = tree / "portd/kernel/native/crc64.h"
    header.write_text(header.read_text() + "\n#error planted\n")
    leave_one_unit(tree)
    shown = build(tree, "build_wheel('dist')")
    assert shown.returncode != 0
    assert "planted" in shown.stderr
    assert "HINT: install" not in shown.stderr


def test_the_source_archive_can_be_built_from(tmp_path: Path) -> None:
    """An sdist carries the .pyx, the declarations, the stubs and the headers, and no generated C."""
    tree = copy_tree(tmp_path)
    shown = build(tree, "build_sdist('dist')")
    assert shown.returncode == 0, shown.stderr
    (archive,) = tree.glob("dist/*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "out")
    (inside,) = (tmp_path / "out").iterdir()
    for path in ROOT.glob("portd/**/*"):
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi", ".h", ".css", ".js", ".typed"}:
            assert (inside / path.relative_to(ROOT)).exists(), path
    assert not list(inside.rglob("*.c"))
