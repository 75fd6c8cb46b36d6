"""The spool's own directory: private, locked, and cleaned of what dead processes left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portd.errors import SpoolError
from portd.spool import Spool
from portd.spool.directory import PREFIX, PrivateDirectory, remove_stale

HOLDER = """
import sys
from pathlib import Path
from portd.spool.directory import PrivateDirectory
directory = PrivateDirectory(Path(sys.argv[1]))
(directory.path / "0000000001.segment").write_bytes(b"x")
print(directory.path, flush=True)
sys.stdin.read()
"""


def other_process(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a directory with a segment in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    """Kills the process: it cannot tidy up."""
    process.kill()
    process.communicate()


def test_directories_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """A live instance's directory is never touched; a dead one's goes at the next start."""
    process, path = other_process(tmp_path)
    try:
        assert remove_stale(tmp_path) == []
        assert (path / "0000000001.segment").exists()
    finally:
        end(process)
    spool = Spool(memory_bytes=1 << 20, directory=tmp_path, max_disk_bytes=1 << 20)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_own_directory_is_private(tmp_path: Path) -> None:
    """The data of a whole database passes through: nobody else may read it."""
    directory = PrivateDirectory(tmp_path / "made" / "on demand")
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert (directory.path / "lock").stat().st_mode & 0o777 == 0o600
    directory.remove()
    directory.remove()
    assert not directory.path.exists()


def test_only_what_a_spool_made_is_removed(tmp_path: Path) -> None:
    """Foreign files, links and directories stay, whatever their names are."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0000000001.segment").touch()
    parent = tmp_path / "spool"
    parent.mkdir()
    (parent / f"{PREFIX}link").symlink_to(elsewhere)
    (parent / "notes").touch()
    foreign = parent / f"{PREFIX}foreign"
    foreign.mkdir()
    (foreign / "lock").touch()
    (foreign / "keep").touch()
    PrivateDirectory(parent).remove()
    assert (elsewhere / "0000000001.segment").exists()
    assert (foreign / "keep").exists()
    assert (parent / "notes").exists()


def test_a_directory_without_lock_is_given_time(tmp_path: Path) -> None:
    """It may be one that another process is just making; an old one is a leftover."""
    young, old = tmp_path / f"{PREFIX}young", tmp_path / f"{PREFIX}old"
    young.mkdir()
    old.mkdir()
    os.utime(old, (1, 1))
    assert remove_stale(tmp_path) == [old]
    assert young.exists()


def test_two_spools_share_a_parent(tmp_path: Path) -> None:
    """Several instances may use one spool directory, also in one process."""
    first, second = PrivateDirectory(tmp_path), PrivateDirectory(tmp_path)
    assert first.path.exists()
    assert second.path.exists()
    first.remove()
    second.remove()


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_unusable_directory_is_named(tmp_path: Path, kind: str) -> None:
    """A spool directory that cannot be used stops the start with its name and a hint."""
    path = tmp_path / "file"
    path.touch()
    path = path if kind == "a file" else path / "below"
    with pytest.raises(SpoolError) as caught:
        Spool(memory_bytes=1 << 20, directory=path, max_disk_bytes=1 << 20)
    assert str(path) in str(caught.value)
    assert "HINT: spool_dir" in str(caught.value)
