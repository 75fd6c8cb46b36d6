"""The disk of the spool: segment files of checked records. Blocking functions: one thread writes, another one reads.

A segment is a row of records. A record is a header and its payload:

    magic     4 bytes   "PSP" and the version of this format, 0x02
    length    u32       bytes of payload
    index     i64       absolute index of the first byte of payload
    received  f64       when it was received, unix seconds
    nonce     u32       drawn when the spool was made: a record of another run is never taken for ours
    crc       u64       CRC-64/Jones of the 28 header bytes before it, then of the payload

all little-endian. Files are never synced: they hold what the source would send again, and die with the process.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.errors import SpoolError
from portd.kernel.crc64 import crc64
from portd.spool.window import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAGIC = b"PSP\x02"
HEADER = struct.Struct("<4sIqdIQ")
SEALED = struct.Struct("<4sIqdI")  # the part of the header that the CRC covers
HEADER_BYTES = HEADER.size

ALTERED_HINT = (
    "something else wrote into the spool directory, or the disk is failing; portd can be started again, "
    "it continues from the target's checkpoint"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins.

    Attributes:
        segment: number of the segment file.
        offset: byte offset in the file.
        index: absolute index of the first byte of the record's payload.
    """

    segment: int
    offset: int
    index: int


def stored_bytes(block: Block) -> int:
    """Bytes that a block takes in a segment."""
    return block.end - block.start + HEADER_BYTES * block.span_count


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return directory / f"{number:010d}.segment"


class _Opened:
    """The one segment file that is open; the next one is opened in its place."""

    def __init__(self, directory: Path, flags: int) -> None:
        self._directory = directory
        self._flags = flags | os.O_CLOEXEC
        self._number = -1
        self._descriptor = -1

    def descriptor(self, number: int) -> int:
        """Of this segment."""
        if self._number != number:
            self.close()
            self._descriptor = os.open(segment_path(self._directory, number), self._flags, 0o600)
            self._number = number
        return self._descriptor

    def close_any(self, numbers: Sequence[int]) -> None:
        """Closes the file if it is one of these."""
        if self._number in numbers:
            self.close()

    def close(self) -> None:
        """Closes it; idempotent."""
        if self._number >= 0:
            self._number = -1
            os.close(self._descriptor)


class SegmentWriter:
    """Writes and removes the segment files of one directory.

    Args:
        directory: private to the spool.
        nonce: marks its records.
        write: replaces `os.pwritev`, for tests of a full disk.
    """

    def __init__(self, directory: Path, nonce: int, *, write: Callable[..., int] = os.pwritev) -> None:
        self._directory = directory
        self._nonce = nonce
        self._write = write
        self._opened = _Opened(directory, os.O_WRONLY | os.O_CREAT)

    def append(self, number: int, offset: int, blocks: Sequence[Block]) -> None:
        """Writes blocks at the end of a segment, which is created when *offset* is 0.

        Raises:
            OSError: what the system said. The file is cut back to *offset*, so that the same call can be repeated.
        """
        descriptor = self._opened.descriptor(number)
        pieces: list[memoryview | bytes] = []
        for block in blocks:
            for start, end, received_at in block.spans():
                payload = block.slice(start, end)
                pieces += [self._header(start, payload, received_at), payload]
        try:
            self._write_all(descriptor, pieces, offset)
        except OSError:
            os.ftruncate(descriptor, offset)
            raise

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes segments; one that is gone already counts as deleted."""
        self._opened.close_any(numbers)
        for number in numbers:
            segment_path(self._directory, number).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; removes none."""
        self._opened.close()

    def _header(self, index: int, payload: memoryview, received_at: float) -> bytes:
        sealed = SEALED.pack(MAGIC, len(payload), index, received_at, self._nonce)
        return sealed + crc64(payload, crc64(sealed)).to_bytes(8, "little")

    def _write_all(self, descriptor: int, pieces: list[memoryview | bytes], offset: int) -> None:
        """Writes all pieces, at most `IOV_MAX` a call; a short write goes on behind what was written."""
        limit = os.sysconf("SC_IOV_MAX")
        while pieces:
            written = self._write(descriptor, pieces[:limit], offset)
            offset += written
            done = 0
            while done < len(pieces) and written >= len(pieces[done]):
                written -= len(pieces[done])
                done += 1
            del pieces[:done]
            if written:
                pieces[0] = pieces[0][written:]


class SegmentReader:
    """Reads the segment files of one directory.

    Args:
        directory: private to the spool.
        nonce: marks its records.
    """

    def __init__(self, directory: Path, nonce: int) -> None:
        self._directory = directory
        self._nonce = nonce
        self._opened = _Opened(directory, os.O_RDONLY)

    def load(self, place: Place, index: int, end: int, views: list[memoryview]) -> tuple[list[Block], Place]:
        """Reads records, one into each of *views*, from the one that holds *index* on.

        Args:
            place: a record of the segment at or before *index*.
            index: first byte wanted; records that end before it are passed over.
            end: index behind the last byte of this segment.
            views: buffers; as many as were filled are used, from the front.

        Returns:
            The blocks (at least one), and the place behind the last one.

        Raises:
            SpoolError: a record is not what was written.
        """
        blocks: list[Block] = []
        while place.index < end and len(blocks) < len(views):
            try:
                header, length = self._read_header(place)
                if place.index + length > index:
                    blocks.append(self._read_payload(place, header, length, views[len(blocks)]))
            except SpoolError:
                if blocks:  # what came before it is good, and is wanted first
                    break
                raise
            place = Place(place.segment, place.offset + HEADER_BYTES + length, place.index + length)
        return blocks, place

    def let_go(self, numbers: Sequence[int]) -> None:
        """Segments that are about to be removed: a file that is open would keep its place on the disk."""
        self._opened.close_any(numbers)

    def close(self) -> None:
        """Closes the file."""
        self._opened.close()

    def _read_header(self, place: Place) -> tuple[bytes, int]:
        header = os.pread(self._descriptor(place), HEADER_BYTES, place.offset)
        if len(header) < HEADER_BYTES:
            raise self._altered(place, "ends early")
        magic, length, index, _, nonce, _ = HEADER.unpack(header)
        if (magic, index, nonce) != (MAGIC, place.index, self._nonce) or length == 0:
            raise self._altered(place, "has a record that is not ours")
        return header, length

    def _read_payload(self, place: Place, header: bytes, length: int, view: memoryview) -> Block:
        if length > len(view):
            raise self._altered(place, "has a record that is not ours")
        payload = view[:length]
        offset = place.offset + HEADER_BYTES
        done = 0
        while done < length:
            count = os.preadv(self._descriptor(place), [payload[done:]], offset + done)
            if count == 0:
                raise self._altered(place, "ends early")
            done += count
        _, _, _, received_at, _, crc = HEADER.unpack(header)
        if crc64(payload, crc64(header[: SEALED.size])) != crc:
            raise self._altered(place, "does not match its checksum")
        block = Block(view, place.index, loaded=True)
        block.grow(length, received_at)
        return block

    def _altered(self, place: Place, what: str) -> SpoolError:
        path = segment_path(self._directory, place.segment)
        return SpoolError(
            f"spool file {path} {what} (file offset {place.offset}, spool index {place.index})",
            hint=ALTERED_HINT,
        )

    def _descriptor(self, place: Place) -> int:
        try:
            return self._opened.descriptor(place.segment)
        except FileNotFoundError:
            raise self._altered(place, "is gone") from None
