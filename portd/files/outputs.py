"""Writes a file under a temporary name and renames it when all of it is there, or writes to standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portd.errors import OutputClosed, OutputError
from portd.text import hide_logins

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDOUT: Final = "-"
SYNC_BYTES: Final = 32 << 20  # written back in steps, so that the end does not wait for everything


class Output:
    """A file that appears under its name only when `commit` was called; ``-`` is standard output, and devices are themselves.

    Args:
        path: where it is to be.

    Raises:
        OutputError: it cannot be created there.
    """

    def __init__(self, path: str) -> None:
        self.written = 0  # bytes
        self._path = None if path == STDOUT else Path(path)
        self._temporary: Path | None = None
        self._descriptor = -1
        self._unsynced = 0
        if self._path is None:
            self._name = "standard output"
            self._descriptor = os.dup(sys.stdout.fileno())
            return
        self._name = hide_logins(path, bare=True)  # perhaps it was meant to be a URL
        if self._path.is_dir():
            raise OutputError(f"{self._name} is a directory", hint="name a file in it")
        if self._path.exists() and not self._path.is_file():  # a device or a pipe is written to, not replaced
            try:
                self._descriptor = os.open(self._path, os.O_WRONLY)
            except OSError as error:
                raise self._failed(error) from None
            self._path = None
            return
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        # A signal may end us as soon as it is there, and before anybody has us to be closed.
        self._removal = weakref.finalize(self, _remove, self._temporary)
        try:
            self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            self._removal.detach()
            self._temporary = None
            raise self._failed(error) from None

    def write(self, data: Buffer) -> None:
        """Writes all of *data*.

        Raises:
            OutputError: the disk is full or failed.
            OutputClosed: nobody reads standard output any more.
        """
        rest = memoryview(data)
        try:
            while rest:
                count = os.write(self._descriptor, rest)
                self.written += count
                self._unsynced += count
                rest = rest[count:]
            if self._path is not None and self._unsynced >= SYNC_BYTES:
                os.fdatasync(self._descriptor)
                self._unsynced = 0
        except BrokenPipeError:
            raise OutputClosed("the reader of our output has gone") from None
        except OSError as error:
            raise self._failed(error) from None

    def commit(self) -> None:
        """Everything is written: makes it durable and gives the file its name.

        Raises:
            OutputError: the disk is full or failed.
        """
        if self._path is None or self._temporary is None:
            return
        try:
            os.fsync(self._descriptor)
            self._temporary.replace(self._path)
            self._removal.detach()
            self._temporary = None
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Removes what was not committed; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary is not None:
            self._removal()
            self._temporary = None

    def _failed(self, error: OSError) -> OutputError:
        reason = (error.strerror or str(error)).lower()
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        hint = "make room, or write elsewhere" if full else "check the path, its owner and the free space"
        return OutputError(
            f"{self._name} cannot be written: {reason}",
            hint=hint if self._path is None else f"{hint}; no half-written file was left",
        )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it may be gone with its directory
        path.unlink()
