"""A directory of our own inside the spool directory, and the removal of those that dead processes left behind.

Each spool makes `portd-spool-<random>` with a file `lock` in it, held by `flock` while the process lives. A
directory whose lock can be had belongs to nobody and is removed, the files a spool makes and nothing else. The directory
itself is locked too: that keeps `systemd-tmpfiles` from ageing out the files of a spool that is weeks old.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path

from portd.errors import SpoolError
from portd.log import get_logger

PREFIX = "portd-spool-"
LOCK_NAME = "lock"
SEGMENT_SUFFIX = ".segment"
UNLOCKED_GRACE_SECONDS = 60.0  # a directory without a lock file may be one that is just being made

_HINT = "spool_dir must be a local directory that portd's user may write to; or set spool_dir to off"
_log = get_logger("spool")


class PrivateDirectory:
    """A locked directory; see the module.

    Args:
        parent: where to make it; made itself when it does not exist.

    Raises:
        SpoolError: *parent* cannot be used.
    """

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_stale(parent)
            self.path, self._lock = _make(parent)
            self._own_lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _try_lock(self._own_lock)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SpoolError(f"cannot use spool directory {parent}: {reason}", hint=_HINT) from error

    def remove(self) -> None:
        """Removes the directory with all segments, and gives up the lock; idempotent."""
        if self._lock >= 0:
            _remove_files(self.path)
            os.close(self._lock)
            os.close(self._own_lock)
            self._lock = -1


def remove_stale(parent: Path) -> list[Path]:
    """Removes the directories of dead processes; returns them."""
    removed = []
    with os.scandir(parent) as entries:
        found = [
            Path(entry) for entry in entries if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
        ]
    for path in found:
        try:
            lock = _lock_of_dead(path)
            if lock is None:
                continue
            try:
                _remove_files(path)
            finally:
                os.close(lock)
        except OSError as error:  # another user's, or it holds files that no spool made
            _log.warning("stale spool directory stays", path=str(path), error=error.strerror)
        else:
            _log.info("stale spool directory removed", path=str(path))
            removed.append(path)
    return removed


def _make(parent: Path) -> tuple[Path, int]:
    """Makes and locks a directory. Starts over when a cleaner was faster than our lock."""
    while True:
        path = parent / f"{PREFIX}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        try:
            lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        if _try_lock(lock) and _same_file(lock, path / LOCK_NAME):
            return path, lock
        os.close(lock)


def _lock_of_dead(path: Path) -> int | None:
    """The lock of a directory that nobody holds, locked; None while somebody may."""
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        if time.time() - path.stat().st_mtime < UNLOCKED_GRACE_SECONDS:
            return None
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if _try_lock(lock):
        return lock
    os.close(lock)
    return None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_files(path: Path) -> None:
    """Segments first, the lock last: a removal that was interrupted can be taken up again."""
    for segment in path.glob(f"*{SEGMENT_SUFFIX}"):
        segment.unlink(missing_ok=True)
    (path / LOCK_NAME).unlink(missing_ok=True)
    path.rmdir()
