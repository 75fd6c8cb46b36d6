"""Reads a file, standard input, or something compressed, in pieces of bounded size."""

from __future__ import annotations

import gzip
import hashlib
import os
import select
import stat
import sys
import zlib
from pathlib import Path
from typing import IO, Any, Final, cast

from portd.errors import ConfigError, DecodeError, InputError
from portd.text import hide_logins

STDIN: Final = "-"
READ_BYTES: Final = 256 * 1024
LOOK_SECONDS: Final = 0.25  # how often a wait for a pipe looks whether it is still wanted


class Input:
    """Bytes of one input, from its beginning to its end.

    Args:
        name: for messages.
        raw: the file itself.
        plain: what its bytes are after decompression; the file itself when nothing is to be decompressed.
        sha256: that they have to have, hexadecimal; "" for any. Whether they do is known at the end.
    """

    def __init__(self, name: str, raw: IO[bytes], plain: IO[bytes], sha256: str = "") -> None:
        self._sha256 = sha256
        self._hash = hashlib.sha256() if sha256 else None
        self.name = name
        self._raw = raw
        self._plain = plain
        self._buffer = memoryview(bytearray(READ_BYTES))
        self.size = _size_of(raw)  # of the file, bytes; None for a pipe
        self.read_bytes = 0  # after decompression
        self._closed = False

    @property
    def consumed(self) -> int:
        """Bytes of the file itself read so far; with `size` it tells how far we are."""
        return self.read_bytes if self._plain is self._raw else self._raw.tell() if self.size is not None else 0

    def read(self) -> memoryview:
        """The next bytes, empty at the end; valid until the next call.

        Raises:
            InputError: the disk failed.
            DecodeError: what is decompressed is corrupt or cut, or it was another file.
        """
        try:
            if self.size is None and not self._wait():
                return self._buffer[:0]
            count = cast("Any", self._plain).readinto(self._buffer)
        except EOFError:
            raise DecodeError(f"{self.name} is cut: its compressed data does not end", offset=self.read_bytes) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DecodeError(f"{self.name} is not valid gzip data: {error}", offset=self.read_bytes) from None
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {_reason(error)}") from None
        except Exception as error:
            if type(error).__module__.startswith("zstandard"):
                raise DecodeError(f"{self.name} is not valid zstd data: {error}", offset=self.read_bytes) from None
            raise
        self.read_bytes += count
        if self._hash is not None:
            self._check(self._hash, self._buffer[:count])
        return self._buffer[:count]

    def _check(self, sums: hashlib._Hash, data: memoryview) -> None:
        """Raises: DecodeError: all of it was read, and it is another file."""
        sums.update(data)
        if self.read_bytes >= (self.size or 0) and sums.hexdigest() != self._sha256:
            raise DecodeError(
                f"{self.name} is not the file that the manifest names: its checksum is another one",
                offset=self.read_bytes,
                hint="take the file of that dump",
            )

    def _wait(self) -> bool:
        """Waits until a pipe has bytes, so that a thread in here notices when the input is closed; False then."""
        while not self._closed:
            try:
                if select.select([self._raw], [], [], LOOK_SECONDS)[0]:
                    return True
            except (OSError, ValueError):  # closed meanwhile
                if not self._closed:
                    raise
        return False

    def close(self) -> None:
        """Closes the file; idempotent. A `read` in another thread ends soon, as if the input had."""
        self._closed = True
        if self._plain is not self._raw:
            self._plain.close()
        self._raw.close()


def open_input(path: str, sha256: str = "") -> Input:
    """Opens what *path* names: a file, ``-`` for standard input; ``.gz`` and ``.zst`` are decompressed.

    Args:
        path: of it.
        sha256: of a file that is not compressed; see `Input`.

    Raises:
        InputError: it is not there, a directory, or not readable.
        ConfigError: zstd is not installed.
    """
    shown = hide_logins(path, bare=True)  # perhaps it was meant to be a URL
    if path == STDIN:
        if sys.stdin.isatty():
            raise InputError("standard input is a terminal", hint="redirect a file into it, or give a file name")
        raw: IO[bytes] = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
        return Input("standard input", raw, raw)
    try:
        raw = Path(path).open("rb", buffering=0)  # noqa: SIM115 - `Input` closes it
    except IsADirectoryError:
        raise InputError(f"{shown} is a directory", hint=_directory_hint(Path(path))) from None
    except OSError as error:
        raise InputError(f"{shown} cannot be opened: {_reason(error)}", hint="check the path and its owner") from None
    try:
        return Input(shown, raw, _decompressed(path, raw), sha256)
    except BaseException:
        raw.close()
        raise


def _decompressed(path: str, raw: IO[bytes]) -> IO[bytes]:
    if path.endswith((".gz", ".gzip")):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if path.endswith((".zst", ".zstd")):
        try:
            import zstandard  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError(
                f"{path} is compressed with zstd, and the package zstandard is not installed",
                hint="pip install 'portd[zstd]', or decompress it first: zstd -dc FILE | portd ... -",
            ) from None
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw


def _directory_hint(path: Path) -> str:
    manifests = sorted(path.glob("*.manifest"))
    if len(manifests) == 1:
        return f"for the append-only file in it, give its manifest: {manifests[0]}"
    return "give the file in it that is meant"


def _size_of(raw: IO[bytes]) -> int | None:
    status = os.fstat(raw.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
