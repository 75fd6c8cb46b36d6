"""The package: every unit is built, what ships is complete, and a machine without a compiler is told so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from portd._build import PACKAGE, compiler_flags, units
from portd.cli.manual import write_manual
from tests.servers import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "portd/kernel"


def test_the_units_of_the_kernel_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every .pyx is a unit, and a changed C header compiles those again that were compiled with it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        (entry,) = tomllib.load(file)["tool"]["setuptools"]["ext-modules"]
    assert "optional" not in entry  # it would install a portd without its kernel and say nothing
    assert entry["name"] == PACKAGE
    monkeypatch.chdir(ROOT)
    found = {unit.name: unit for unit in units(*entry["sources"])}
    assert set(found) == {f"portd.kernel.{path.stem}" for path in KERNEL.glob("*.pyx")}
    headers = {str(path.relative_to(ROOT)) for path in KERNEL.glob("native/*.h")}
    for name, unit in found.items():
        assert unit.sources == [f"portd/kernel/{name.rpartition('.')[2]}.pyx"]
        assert headers == set(unit.depends)


@pytest.mark.parametrize(
    ("wanted", "in_tree", "flags"),
    [
        ("", False, ["-O3", "-Wall", "-Wextra"]),
        ("", True, ["-O3", "-Wall", "-Wextra", "-Werror"]),
        ("-g -O1", True, ["-Wall", "-Wextra", "-Werror"]),
        ("-Wno-error", True, ["-O3", "-Wall", "-Wextra"]),
    ],
)
def test_a_warning_is_an_error_for_developers_only(wanted: str, *, in_tree: bool, flags: list[str]) -> None:
    """The compiler of somebody who installs portd may warn of what ours does not know; that must not end the install."""
    assert compiler_flags(wanted, in_tree=in_tree) == flags


def _project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)
    return project


def test_each_dependency_has_a_tested_version() -> None:
    """constraints.txt pins every library of portd, to a version that pyproject.toml takes; nothing else is asked for in it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    for each in _project()["project"]["dependencies"]:
        name, least = re.match(r"([a-z-]+)(?:\[.*\])?>=([0-9.]+)", each).groups()  # type: ignore[union-attr]
        assert _parts(pins[name]) >= _parts(least), name


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


def test_wheels_are_made_for_the_versions_that_are_named() -> None:
    """The list of Pythons is one: of the classifiers, of cibuildwheel, of what the README says, of what pip takes."""
    project = _project()
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["project"]["classifiers"]), re.MULTILINE)
    assert [f"cp{each.replace('.', '')}-*" for each in named] == project["tool"]["cibuildwheel"]["build"]
    assert project["project"]["requires-python"] == f">={named[0]}"
    assert f"CPython {named[0]} to {named[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_container_is_of_a_known_base() -> None:
    """Both stages begin with one base of a whole version, labels tell which, and what is copied is let through."""
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases[0])
    assert f'base.name="{bases[0]}"' in text
    assert f'image.version="{_project()["project"]["version"]}"' in text
    let = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    (copied,) = re.findall(r"^COPY (pyproject.+) \./$", text, re.MULTILINE)
    for name in copied.split():
        assert f"!{name}" in let
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_flags(shell: str) -> None:
    """What the shell is told to run knows every command, and the flags of one."""

    def ask(**variables: str) -> str:
        words = {**os.environ, **variables, "_TYPER_COMPLETE_ARGS": variables.get("COMP_WORDS", "")}
        shown = subprocess.run(
            [sys.executable, "-m", "portd"],
            env=words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert shown.stderr == ""
        return shown.stdout

    assert "_PORTD_COMPLETE" in ask(_PORTD_COMPLETE=f"source_{shell}")
    more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    assert "verify" in ask(_PORTD_COMPLETE=f"complete_{shell}", COMP_WORDS="portd ver", COMP_CWORD="1", **more)
    flags = ask(_PORTD_COMPLETE=f"complete_{shell}", COMP_WORDS="portd sync --max-target", COMP_CWORD="2", **more)
    assert "--max-target-ops" in flags


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_man_pages_are_made_of_the_command_line(tmp_path: Path) -> None:
    """One for each command, without a complaint of the formatter, with every flag in words that can be copied."""
    for path in write_manual(tmp_path):
        shown = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-P-cbou", path], capture_output=True, text=True, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, ""), path
        if path.name == "portd-sync.1":
            assert "--max-target-bytes-per-second" in shown.stdout
    assert (tmp_path / "portd.1").is_file()
    assert not (tmp_path / "portd-reference.1").exists()


def copy_tree(to: Path) -> Path:
    """What a build needs, without what was built before."""
    shutil.copytree(ROOT / "portd", to / "portd", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def keep_unit(tree: Path, name: str) -> None:
    """Leaves one unit in *tree*, so that a build is short."""
    for path in tree.glob("portd/kernel/*.pyx"):
        if path.stem != name:
            path.unlink()


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
    keep_unit(tree, "crc64")
    shown = build(tree, call, **environment)
    assert shown.returncode != 0
    assert words in shown.stderr
    assert "HINT: install a C compiler" in shown.stderr
    assert "apt-get install gcc" in shown.stderr
    assert not list(tmp_path.glob("dist/*.whl"))


WARNS = '# cython: language_level=3\ncdef extern from *:\n    """\n    static int nobody_calls(void) { return 0; }\n    """\n'


@pytest.mark.parametrize(("call", "built"), [("build_wheel('dist')", True), ("build_editable('dist')", False)])
def test_a_new_unit_needs_no_entry(tmp_path: Path, call: str, *, built: bool) -> None:
    """A .pyx beside the others is in the wheel, even with a warning of the compiler; in the tree that is an error."""
    tree = copy_tree(tmp_path)
    (tree / "portd/kernel/fresh.pyx").write_text(WARNS)
    keep_unit(tree, "fresh")
    shown = build(tree, call)
    assert "nobody_calls" in shown.stdout + shown.stderr
    assert (shown.returncode == 0) == built, shown.stderr
    wheels = list(tree.glob("dist/*.whl"))
    assert bool(wheels) == built
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        assert any(re.fullmatch(r"portd/kernel/fresh\..*\.so", name) for name in names), names


def test_a_unit_that_does_not_compile_is_not_blamed_on_the_machine(tmp_path: Path) -> None:
    """Where a compiler works, the compiler's own message stands, without the hint."""
    tree = copy_tree(tmp_path)
    header = tree / "portd/kernel/native/crc64.h"
    header.write_text(header.read_text() + "\n#error planted\n")
    keep_unit(tree, "crc64")
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
