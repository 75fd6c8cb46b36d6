"""The book of scripts: texts by their SHA1, bounded, in a file that a restart finds again.

A source that sends ``EVALSHA`` takes for granted that its replicas know the text; servers keep it in memory only, and
newer ones forget the oldest of what came by ``EVAL``. So texts are kept here, to be given to the target with what needs
them. There are two halves; when the newer one is full the older one is emptied and becomes the newer one, and what is
still asked for is copied over. Each half is a file of records, ``<SHA1, 20 bytes><size, 4 bytes big endian><text>``,
behind a header with its generation; a record that is cut or altered ends its file. Without a path both are held in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portd.config.settings import Settings

_log = get_logger("target")

TEXT_BYTES: Final = 128 * 1024  # a larger one is not kept
MOST_TEXTS: Final = 8192  # in each half
MOST_BYTES: Final = 16 * 1024 * 1024  # of each half in a file
MOST_BYTES_HELD: Final = 1024 * 1024  # of each half in memory
ENTRY_BYTES: Final = 240  # about what a text costs in memory beside itself
SCRIPTS: Final = "portd-scripts-"  # files with what the source calls by its SHA1
_MAGIC: Final = b"portd scripts 1\n"
_HEADER: Final = struct.Struct(">16sQ")
_RECORD: Final = struct.Struct(">20sI")


def digest_of(text: bytes) -> bytes:
    """What servers call a script by: its SHA1 in lower-case hexadecimal digits (eval.c:sha1hex)."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


class _Half:
    """Some texts by their digests, in memory."""

    most_bytes = MOST_BYTES_HELD

    def __init__(self) -> None:
        self.size = 0
        self.generation = 0
        self._texts: dict[bytes, bytes] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._texts

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return self.size + len(self) * ENTRY_BYTES

    def takes(self, size: int) -> bool:
        """Whether a text of *size* bytes fits."""
        return len(self) < MOST_TEXTS and self.size + size <= self.most_bytes

    def put(self, digest: bytes, text: bytes) -> None:
        """Keeps a text."""
        self._texts[digest] = text
        self.size += len(text)

    def get(self, digest: bytes) -> bytes | None:
        """A text; None when it is not here."""
        return self._texts.get(digest)

    def empty(self, generation: int) -> None:
        """Forgets all texts."""
        self._texts.clear()
        self.size = 0
        self.generation = generation

    def close(self) -> None:
        """Gives up what it holds beside memory."""


class _FileHalf(_Half):
    """The same in a file; it is locked, and read to its end.

    Raises:
        OSError: it cannot be used, or another process does.
    """

    most_bytes = MOST_BYTES

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._places: dict[bytes, tuple[int, int]] = {}  # where a text is, and its size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def _load(self) -> None:
        header = os.pread(self._file, _HEADER.size, 0)
        magic, generation = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0)
        if magic != _MAGIC:
            self.empty(0)
            return
        self.generation = generation
        self.size = _HEADER.size
        while self.size < self.most_bytes and len(self) < MOST_TEXTS:
            record = os.pread(self._file, _RECORD.size, self.size)
            if len(record) < _RECORD.size:
                break
            raw, size = _RECORD.unpack(record)
            if self.size + _RECORD.size + size > self.most_bytes:
                break
            text = os.pread(self._file, size, self.size + _RECORD.size)
            if len(text) < size or digest_of(text) != raw.hex().encode():
                break
            self._places[raw] = self.size + _RECORD.size, size
            self.size += _RECORD.size + size
        os.ftruncate(self._file, self.size)

    def __contains__(self, digest: bytes) -> bool:
        return bytes.fromhex(digest.decode()) in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return len(self) * ENTRY_BYTES

    def put(self, digest: bytes, text: bytes) -> None:
        """Keeps a text.

        Raises:
            OSError: the file cannot be written; nothing was changed.
        """
        raw = bytes.fromhex(digest.decode())
        record = _RECORD.pack(raw, len(text)) + text
        if os.pwrite(self._file, record, self.size) < len(record):
            os.ftruncate(self._file, self.size)
            raise OSError("it takes no more bytes")
        self._places[raw] = self.size + _RECORD.size, len(text)
        self.size += len(record)

    def get(self, digest: bytes) -> bytes | None:
        """A text; None when it is not here, or was altered."""
        place = self._places.get(bytes.fromhex(digest.decode()))
        if place is None:
            return None
        at, size = place
        text = os.pread(self._file, size, at)
        return text if digest_of(text) == digest else None

    def empty(self, generation: int) -> None:
        """Forgets all texts."""
        self._places.clear()
        self.generation = generation
        os.ftruncate(self._file, 0)
        self.size = os.pwrite(self._file, _HEADER.pack(_MAGIC, generation), 0)

    def close(self) -> None:
        """Closes the file, which stays."""
        os.close(self._file)


class ScriptBook:
    """Texts of scripts, the newest of them; see the module.

    Args:
        path: of the files, without what their names end with; None holds the texts in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._halves: list[_Half] = []  # the newer one first; empty until there is something to keep
        if path is not None and _file(path, 0).exists():
            self._open()

    def add(self, text: bytes) -> None:
        """Keeps a text, unless it is too large."""
        if len(text) > TEXT_BYTES:
            return
        digest = digest_of(text)
        newer, older = self._open()
        if digest in newer:
            return
        if not newer.takes(len(text) + _RECORD.size):
            generation = newer.generation + 1
            newer, older = self._halves = [older, newer]
            self._try(lambda: newer.empty(generation))
        self._try(lambda: newer.put(digest, text))

    def get(self, digest: bytes) -> bytes | None:
        """The text with this digest (lower-case hexadecimal digits); None when it is not known."""
        if not self._halves:
            return None
        newer, older = self._halves
        try:
            text = newer.get(digest)
            if text is None and (text := older.get(digest)) is not None:
                self.add(text)  # still in use
        except ValueError:  # no digits
            return None
        except OSError as error:
            self._give_up(error)
            return None
        return text

    def held_bytes(self) -> int:
        """Memory that it takes."""
        return sum(half.held_bytes for half in self._halves)

    def close(self) -> None:
        """Closes the files, which stay for the next start; idempotent."""
        for half in self._halves:
            half.close()
        self._halves = []

    def _open(self) -> list[_Half]:
        if not self._halves and self._path is not None:
            opened: list[_Half] = []
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened += [_FileHalf(_file(self._path, 0))]
                opened += [_FileHalf(_file(self._path, 1))]
                self._halves = sorted(opened, key=lambda half: half.generation, reverse=True)
            except OSError as error:
                for half in opened:
                    half.close()
                self._give_up(error)
        if not self._halves:
            self._halves = [_Half(), _Half()]
        return self._halves

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """From now on without files: what they held is not known any more, and asked for at the target."""
        _log.warning(
            "scripts are kept in memory only", path=str(self._path), reason=(error.strerror or str(error)).lower()
        )
        self.close()
        self._path = None
        self._halves = [_Half(), _Half()]


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def script_path(settings: Settings) -> Path | None:
    """Where the scripts of this link are kept, for the next start to find."""
    directory = settings.spool_directory()
    link = f"{settings.target_endpoint().display} {settings.checkpoint_name()}"
    name = hashlib.sha1(link.encode(), usedforsecurity=False).hexdigest()[:12]
    return directory / f"{SCRIPTS}{name}" if directory is not None else None
