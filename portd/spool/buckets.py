"""A file of blocks sorted into buckets: written in any order, read back bucket by bucket.

Each block is written behind the one before it, headed by the place of the bucket's previous block, so that memory holds
one number for each bucket however many blocks there are. The file has no name: it goes with the process.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from typing import TYPE_CHECKING, Final

from portd.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOWHERE: Final = -1
_HEAD: Final = struct.Struct("=qI")  # place of the previous block, length of this one


class BucketFile:
    """Blocks by bucket, on disk.

    `append` and `read` block on the disk: call them from a thread, one at a time.

    Args:
        directory: where the file is made.
        buckets: how many there are.

    Raises:
        SpoolError: no file can be made there.
    """

    def __init__(self, directory: Path, buckets: int) -> None:
        self.size = 0  # bytes written
        self._heads = [NOWHERE] * buckets
        self._lock = threading.Lock()  # closing must not pull the file away from a write under way
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed by `close`
                dir=directory, prefix="portd-keys-", buffering=0
            )
        except OSError as error:
            raise self._failed("make a file for key names", error) from error

    def append(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        """Writes blocks.

        Args:
            blocks: with the number of the bucket of each.

        Raises:
            SpoolError: the disk is full, or failed.
        """
        parts: list[bytes] = []
        place, heads = self.size, dict[int, int]()
        for bucket, block in blocks:
            parts += (_HEAD.pack(heads.get(bucket, self._heads[bucket]), len(block)), block)
            heads[bucket] = place
            place += _HEAD.size + len(block)
        data = memoryview(b"".join(parts))
        with self._lock:
            try:
                while data and not self._file.closed:
                    data = data[os.pwrite(self._file.fileno(), data, place - len(data)) :]
            except OSError as error:
                raise self._failed("write key names", error) from error
        for bucket, head in heads.items():
            self._heads[bucket] = head
        self.size = place

    def head(self, bucket: int) -> int:
        """Where reading a bucket begins; `NOWHERE` when it is empty."""
        return self._heads[bucket]

    def read(self, place: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Reads blocks of one bucket, the newest first.

        Args:
            place: from `head`, or from the call before.
            max_bytes: no further block is read at this size.

        Returns:
            Blocks, and the place to go on at, `NOWHERE` behind the last one.

        Raises:
            SpoolError: the disk failed.
        """
        blocks: list[bytes] = []
        size = 0
        with self._lock:
            try:
                while place != NOWHERE and size < max_bytes and not self._file.closed:
                    previous, length = _HEAD.unpack(os.pread(self._file.fileno(), _HEAD.size, place))
                    blocks.append(os.pread(self._file.fileno(), length, place + _HEAD.size))
                    size += length
                    place = previous
            except OSError as error:
                raise self._failed("read key names", error) from error
        return blocks, place

    def close(self) -> None:
        """Gives the disk space back; idempotent."""
        with self._lock:
            self._file.close()

    @staticmethod
    def _failed(what: str, error: OSError) -> SpoolError:
        reason = (error.strerror or str(error)).lower()
        return SpoolError(
            f"cannot {what} in the spool directory: {reason}",
            hint="pruning takes 17 bytes a source key, and 24 bytes and the name a target key; or set prune to leave",
        )
