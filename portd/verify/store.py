"""Records and names of one end on disk: memory holds one bucket at a time, whatever the number of keys is."""

from __future__ import annotations

import os
import struct
from array import array
from typing import TYPE_CHECKING, Final

from portd.errors import SpoolError
from portd.kernel.digest import NAMES
from portd.spool.directory import SEGMENT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUFFER_BYTES: Final = 1 << 20
NAME_HEAD: Final = struct.Struct("<II")  # database, length
_ENTRY: Final = struct.Struct("<IIIIQQ")  # database, length of the name, kinds, times seen alike, both states


def name_at(names: bytes | bytearray | memoryview, offset: int) -> tuple[int, bytes]:
    """Database and name of the key whose name begins at *offset*."""
    db, size = NAME_HEAD.unpack_from(names, offset)
    begin = offset + NAME_HEAD.size
    return db, bytes(names[begin : begin + size])


class Store:
    """One end's records by bucket, and its names.

    Args:
        directory: private; files are made in it.
        name: of the files.
        buckets: how many.

    Raises:
        SpoolError: the disk is full, or the directory cannot be used.
    """

    def __init__(self, directory: Path, name: str, buckets: int) -> None:
        self._records = Appender(directory / f"{name}-records{SEGMENT_SUFFIX}")
        self._names = Appender(directory / f"{name}-names{SEGMENT_SUFFIX}")
        self._pieces = [array("Q") for _ in range(buckets)]  # offset and size of each piece

    @property
    def names_bytes(self) -> int:
        """Of all names so far: the next one's offset."""
        return self._names.size

    def add(self, bucket: int, data: bytes) -> None:
        """Takes a piece as the digest handler hands it out."""
        if bucket == NAMES:
            self._names.write(data)
            return
        pieces = self._pieces[bucket]
        pieces.append(self._records.size)
        pieces.append(len(data))
        self._records.write(data)

    def bucket(self, index: int) -> bytearray:
        """All records of a bucket."""
        pieces = self._pieces[index]
        data = bytearray()
        for at in range(0, len(pieces), 2):
            data += self._records.read(pieces[at], pieces[at + 1])
        return data

    def name(self, offset: int) -> tuple[int, bytes]:
        """Database and name of a key."""
        head = self._names.read(offset, NAME_HEAD.size)
        db, size = NAME_HEAD.unpack(head)
        return db, self._names.read(offset + NAME_HEAD.size, size)

    def close(self) -> None:
        """Removes the files; idempotent."""
        self._records.close()
        self._names.close()


class Appender:
    """A file that grows and is read at random; removed when closed."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._held = bytearray()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(path, error) from error

    def write(self, data: bytes) -> None:
        """Appends."""
        self._held += data
        self.size += len(data)
        if len(self._held) >= BUFFER_BYTES:
            self._flush()

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from *offset* on; those of the file that are not there are missing at the end."""
        if self._held:
            self._flush()
        try:
            return os.pread(self._file, size, offset)
        except OSError as error:
            raise _failed(self._path, error) from error

    def close(self) -> None:
        """Removes the file; idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        view = memoryview(self._held)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _failed(self._path, error) from error
        self._held = bytearray()


def _failed(path: Path, error: OSError) -> SpoolError:
    reason = (error.strerror or str(error)).lower()
    return SpoolError(
        f"cannot keep records in {path.parent}: {reason}",
        hint="a verification takes about 60 bytes and the name of every key of each end: choose a spool_dir with more room",
    )


class Suspect:
    """A key that differed when it was last looked at."""

    __slots__ = ("db", "kinds", "name", "seen", "source_state", "target_state")

    def __init__(
        self, db: int, name: bytes, kinds: int, seen: int, source_state: int = 0, target_state: int = 0
    ) -> None:
        self.db = db
        self.name = name
        self.kinds = kinds
        self.seen = seen  # times it was found in the same state one after the other
        self.source_state = source_state
        self.target_state = target_state


class Suspects:
    """A list of suspects on disk."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._file = Appender(path)

    def add(self, each: Suspect) -> None:
        """Appends one."""
        head = _ENTRY.pack(each.db, len(each.name), each.kinds, each.seen, each.source_state, each.target_state)
        self._file.write(head + each.name)
        self.count += 1

    def batches(self, keys: int) -> Iterator[list[Suspect]]:
        """All of them in order, so many at a time; more may be appended to another list meanwhile, not to this one."""
        offset = 0
        batch: list[Suspect] = []
        while offset < self._file.size:
            db, size, kinds, seen, source_state, target_state = _ENTRY.unpack(self._file.read(offset, _ENTRY.size))
            name = self._file.read(offset + _ENTRY.size, size)
            batch.append(Suspect(db, name, kinds, seen, source_state, target_state))
            offset += _ENTRY.size + size
            if len(batch) == keys:
                yield batch
                batch = []
        if batch:
            yield batch

    def close(self) -> None:
        """Removes the file; idempotent."""
        self._file.close()
