"""Lengths, strings, LZF and the checksum of RDB files, in plain and slow Python."""

from __future__ import annotations

import struct
from typing import cast

from tests.oracle.model import OracleError

LZF_MOST = 1 << 30  # plain bytes believed


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x95AC9329AC4BC9B5 if crc & 1 else crc >> 1
        table.append(crc)
    return table


_CRC_TABLE = _table()


def crc64(data: bytes, crc: int = 0) -> int:
    """CRC-64/Jones as crc64.c of the servers has it."""
    table = _CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def lzf_decompress(packed: bytes, size: int) -> bytes:
    """The *size* plain bytes that *packed* stands for (lzf_d.c:lzf_decompress).

    Raises:
        OracleError: they are not exactly that many, or a match begins before the first byte.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(packed):
            control = packed[at]
            at += 1
            if control < 32:
                if at + control + 1 > len(packed):
                    raise OracleError("LZF literal goes beyond the end")
                out += packed[at : at + control + 1]
                at += control + 1
            else:
                length = control >> 5
                if length == 7:
                    length += packed[at]
                    at += 1
                distance = ((control & 31) << 8 | packed[at]) + 1
                at += 1
                if distance > len(out):
                    raise OracleError("LZF match begins before the start")
                match = out[len(out) - distance :][: length + 2]
                while len(match) < length + 2:  # it overlaps what it makes: the last bytes repeat
                    match = match * 2
                out += match[: length + 2]
            if len(out) > size:
                raise OracleError("LZF gives more than announced")
    except IndexError:
        raise OracleError("LZF ends in a match") from None
    if len(out) != size:
        raise OracleError("LZF gives less than announced")
    return bytes(out)


class Cursor:
    """Reads RDB primitives from bytes, one after another."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def fail(self, message: str) -> OracleError:
        """An error at this place."""
        return OracleError(message, self.at)

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        if size > len(self.data) - self.at:
            raise self.fail(f"{size} bytes wanted, {len(self.data) - self.at} there")
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece

    def byte(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def unpack(self, layout: str) -> int:
        """One fixed-width number, as ``struct`` names it."""
        return cast("int", struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def double(self) -> float:
        """A binary double."""
        return cast("float", struct.unpack("<d", self.take(8))[0])

    def _length(self) -> tuple[int, bool]:
        """(number, special): rdb.c:rdbLoadLenByRef."""
        first = self.byte()
        kind = first >> 6
        if kind == 0:
            return first & 63, False
        if kind == 1:
            return (first & 63) << 8 | self.byte(), False
        if kind == 3:
            return first & 63, True
        if first == 0x80:
            return self.unpack(">I"), False
        if first == 0x81:
            return self.unpack(">Q"), False
        raise self.fail(f"bad length byte {first:#x}")

    def length(self) -> int:
        """A number in length encoding."""
        number, special = self._length()
        if special:
            raise self.fail("a string encoding where a number should be")
        return number

    def signed(self) -> int:
        """A number in length encoding that stands for a signed one."""
        number = self.length()
        return number - (1 << 64) if number >> 63 else number

    def string(self) -> bytes:
        """A string: plain, integer or LZF (rdb.c:rdbGenericLoadStringObject)."""
        number, special = self._length()
        if not special:
            return self.take(number)
        if number <= 2:
            return b"%d" % self.unpack(("<b", "<h", "<i")[number])
        if number == 3:
            packed, size = self.length(), self.length()
            if size > LZF_MOST:
                raise self.fail(f"LZF announces {size} bytes")
            return lzf_decompress(self.take(packed), size)
        raise self.fail(f"unknown string encoding {number}")

    def stream_id(self) -> tuple[int, int]:
        """A stream id in 16 bytes, big endian."""
        return self.unpack(">Q"), self.unpack(">Q")

    def numbers(self, count: int) -> list[int]:
        """*count* numbers in length encoding."""
        return [self.length() for _ in range(count)]


def plain_float(value: float) -> bytes:
    """The fewest digits that are this number, without an exponent, with a point (sparsearray.c:arFormatFloat)."""
    digits, exponent = next(
        (digits, int(exponent))
        for precision in range(17)
        if float(text := f"{value:.{precision}e}") == value
        for digits, exponent in [text.split("e")]
    )
    sign = "-" if digits.startswith("-") else ""
    digits = digits.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}".encode()
    digits = digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :] or '0'}".encode()
