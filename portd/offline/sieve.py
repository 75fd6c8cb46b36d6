"""A snapshot without the keys that rules leave out: bytes pass as they came, with a checksum of their own.

The decoder says which bytes belong to keys that are left out; all others are kept, and so is their order. Hints about numbers of
keys (RESIZEDB) stay as the source wrote them: servers use them to size tables, for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.kernel.crc64 import crc64

if TYPE_CHECKING:
    from portd.kernel.snapshot import SnapshotDecoder

TRAILER_BYTES: Final = 8
HEAD_BYTES: Final = 9
FIRST_WITH_CHECKSUM: Final = 5  # RDB version


class Sieve:
    """Takes a snapshot's bytes as they were decoded, gives back those to keep.

    Args:
        decoder: fresh, with rules; decodes the same bytes.
    """

    def __init__(self, decoder: SnapshotDecoder) -> None:
        self.decoder = decoder
        self._held = bytearray()  # what was decoded, and whose fate is not known yet
        self._at = 0  # snapshot offset of its first byte
        self._crc = 0
        self._checked: bool | None = None  # the snapshot has a checksum; None: not known yet
        decoder.sift()

    def pass_on(self, data: memoryview) -> bytes:
        """What is to be written of all that has come so far, *data* being the newest of it."""
        self._held += data
        settled, dropped = self.decoder.take_dropped()
        if self._checked is None and len(self._held) >= HEAD_BYTES:
            digits = bytes(self._held[:HEAD_BYTES]).lstrip(b"REDISVALKY")
            self._checked = digits.isdigit() and int(digits) >= FIRST_WITH_CHECKSUM
        if self.decoder.ended:
            settled = self._at + len(self._held) - (TRAILER_BYTES if self._checked else 0)
        kept = bytearray()
        at = self._at
        for begin, end in dropped:
            kept += self._piece(at, begin)
            at = end
        kept += self._piece(at, settled)
        del self._held[: settled - self._at]
        self._at = settled
        self._crc = crc64(kept, self._crc)
        if self.decoder.ended and self._checked:
            kept += self._crc.to_bytes(TRAILER_BYTES, "little")
        return bytes(kept)

    def _piece(self, begin: int, end: int) -> memoryview:
        return memoryview(bytes(self._held[begin - self._at : max(begin, end) - self._at]))
