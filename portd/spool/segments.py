"""The disk of the spool: segment files of checked records. Plain blocking functions, called from one worker thread.

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


class SegmentFiles:
    """Writes, reads and removes the segment files of one directory.

    Args:
        directory: private to this object.
        nonce: marks the records of this object.
        write: replaces `os.pwritev`, for tests of a full disk.
    """

    def __init__(self, directory: Path, nonce: int, *, write: Callable[..., int] = os.pwritev) -> None:
        self._directory = directory
        self._nonce = nonce
        self._write = write
        self._writing: tuple[int, int] | None = None  # segment number, file descriptor
        self._reading: tuple[int, int] | None = None

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self._directory / f"{number:010d}.segment"

    def append(self, number: int, offset: int, blocks: Sequence[Block]) -> None:
        """Writes blocks at the end of a segment, which is created when *offset* is 0.

        Raises:
            OSError: what the system said. The file is cut back to *offset*, so that the same call can be repeated.
        """
        descriptor = self._open_for_writing(number)
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

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes segments; one that is gone already counts as deleted."""
        for number in numbers:
            if self._writing is not None and self._writing[0] == number:
                os.close(self._writing[1])
                self._writing = None
            if self._reading is not None and self._reading[0] == number:
                os.close(self._reading[1])
                self._reading = None
            self.path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the files; removes none."""
        for opened in (self._writing, self._reading):
            if opened is not None:
                os.close(opened[1])
        self._writing = self._reading = None

    # ------------------------------------------------------------ one record

    def _header(self, index: int, payload: memoryview, received_at: float) -> bytes:
        sealed = SEALED.pack(MAGIC, len(payload), index, received_at, self._nonce)
        return sealed + crc64(payload, crc64(sealed)).to_bytes(8, "little")

    def _read_header(self, place: Place) -> tuple[bytes, int]:
        header = os.pread(self._open_for_reading(place), HEADER_BYTES, place.offset)
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
            count = os.preadv(self._open_for_reading(place), [payload[done:]], offset + done)
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
        return SpoolError(
            f"spool file {self.path(place.segment)} {what} (file offset {place.offset}, spool index {place.index})",
            hint=ALTERED_HINT,
        )

    # ----------------------------------------------------------------- files

    def _open_for_writing(self, number: int) -> int:
        if self._writing is None or self._writing[0] != number:
            if self._writing is not None:
                os.close(self._writing[1])
                self._writing = None
            self._writing = (number, os.open(self.path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return self._writing[1]

    def _open_for_reading(self, place: Place) -> int:
        if self._reading is None or self._reading[0] != place.segment:
            if self._reading is not None:
                os.close(self._reading[1])
                self._reading = None
            try:
                descriptor = os.open(self.path(place.segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise self._altered(place, "is gone") from None
            self._reading = (place.segment, descriptor)
        return self._reading[1]

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
