"""Writes lengths, strings and containers of RDB files in every form that a reader must understand."""

from __future__ import annotations

import random
import struct
from typing import TypeVar

from tests.oracle.blobs import backlen_size

T = TypeVar("T")

LZF_DISTANCE = 8192
LZF_MATCH = 264
LZF_LITERAL = 32


def lzf_compress(data: bytes) -> bytes:
    """LZF with the longest matches it finds at the last place where three bytes stood, overlapping ones included."""
    out = bytearray()
    literal = bytearray()
    seen: dict[bytes, int] = {}

    def flush() -> None:
        for start in range(0, len(literal), LZF_LITERAL):
            piece = literal[start : start + LZF_LITERAL]
            out.append(len(piece) - 1)
            out.extend(piece)
        literal.clear()

    at = 0
    while at < len(data):
        head = data[at : at + 3]
        before = seen.get(head, -1) if len(head) == 3 else -1
        seen[head] = at
        if before < 0 or at - before > LZF_DISTANCE:
            literal.append(data[at])
            at += 1
            continue
        length = 3
        while length < LZF_MATCH and at + length < len(data) and data[before + length] == data[at + length]:
            length += 1
        flush()
        distance = at - before - 1
        code = min(length - 2, 7)
        out.append(code << 5 | distance >> 8)
        if code == 7:
            out.append(length - 2 - 7)
        out.append(distance & 255)
        at += length
    flush()
    return bytes(out)


class Style:
    """Chooses between the forms that mean the same.

    Without a seed everything is written the way current servers do; with one, the choices are random but
    reproducible: long forms of small lengths, integers as text, padding, counts left unknown.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = None if seed is None else random.Random(seed)

    def one_in(self, n: int) -> bool:
        """True once in *n* times; never when canonical."""
        return self._random is not None and self._random.randrange(n) == 0

    def number(self, low: int, high: int) -> int:
        """A number in the range; *low* when canonical."""
        return low if self._random is None else self._random.randint(low, high)

    def shuffled(self, things: list[T]) -> list[T]:
        """A permutation; unchanged when canonical."""
        if self._random is not None:
            self._random.shuffle(things)
        return things

    def length(self, number: int) -> bytes:
        """A number in length encoding (rdb.c:rdbSaveLen)."""
        forms = []
        if number < 1 << 6:
            forms.append(bytes([number]))
        if number < 1 << 14:
            forms.append(struct.pack(">H", 0x4000 | number))
        if number < 1 << 32:
            forms.append(b"\x80" + struct.pack(">I", number))
        forms.append(b"\x81" + struct.pack(">Q", number))
        return forms[self.number(0, len(forms) - 1)] if self.one_in(4) else forms[0]

    def string(self, value: bytes, *, lzf: bool | None = None) -> bytes:
        """A string: integer where it can be one, LZF where that is shorter (or as *lzf* says), else plain."""
        number = canonical_integer(value, 32)
        if number is not None and lzf is not True and not self.one_in(4):
            return self._integer(number)
        if lzf is None:
            lzf = len(value) > 20 and not self.one_in(3)
            packed = lzf_compress(value) if lzf else b""
            lzf = lzf and len(packed) + 4 <= len(value)
        else:
            packed = lzf_compress(value) if lzf else b""
        if lzf and value:
            return b"\xc3" + self.length(len(packed)) + self.length(len(value)) + packed
        return self.length(len(value)) + value

    def _integer(self, number: int) -> bytes:
        forms = [b"\xc0" + struct.pack("<b", number)] if -128 <= number < 128 else []
        if -(1 << 15) <= number < 1 << 15:
            forms.append(b"\xc1" + struct.pack("<h", number))
        forms.append(b"\xc2" + struct.pack("<i", number))
        return forms[self.number(0, len(forms) - 1)]


def canonical_integer(value: bytes, bits: int) -> int | None:
    """The number that *value* is the decimal form of, None when it is not one of that many bits."""
    if not value or len(value) > 20 or not value.lstrip(b"-").isdigit():
        return None
    number = int(value)
    fits = -(1 << (bits - 1)) <= number < 1 << (bits - 1)
    return number if fits and b"%d" % number == value else None


def zipmap(cells: list[bytes], style: Style) -> bytes:
    """Keys and values in turn."""
    out = bytearray([min(len(cells) // 2, 254)])
    for index, cell in enumerate(cells):
        if len(cell) < 254 and not style.one_in(5):
            out.append(len(cell))
        else:
            out += b"\xfe" + struct.pack("<I", len(cell))
        free = 0
        if index % 2:
            free = style.number(0, 4)
            out.append(free)
        out += cell + b"\x00" * free
    return bytes(out + b"\xff")


def ziplist(cells: list[bytes], style: Style) -> bytes:
    """Entries; integers in one of their forms or as text."""
    body = bytearray()
    before = last = 0
    for cell in cells:
        last = 10 + len(body)
        entry = bytearray()
        if before < 254 and not style.one_in(6):
            entry.append(before)
        else:
            entry += b"\xfe" + struct.pack("<I", before)
        entry += _ziplist_cell(cell, style)
        body += entry
        before = len(entry)
    count = 65535 if len(cells) >= 65535 or style.one_in(8) else len(cells)
    return struct.pack("<IIH", 11 + len(body), last or 10, count) + bytes(body) + b"\xff"


def _ziplist_cell(cell: bytes, style: Style) -> bytes:
    number = canonical_integer(cell, 64)
    if number is None or style.one_in(5):
        forms = [bytes([len(cell)])] if len(cell) < 1 << 6 else []
        if len(cell) < 1 << 14:
            forms.append(struct.pack(">H", 0x4000 | len(cell)))
        forms.append(b"\x80" + struct.pack(">I", len(cell)))
        return forms[style.number(0, len(forms) - 1)] + cell
    forms = [bytes([0xF1 + number])] if 0 <= number <= 12 else []
    for code, size in ((0xFE, 1), (0xC0, 2), (0xF0, 3), (0xD0, 4), (0xE0, 8)):
        if -(1 << (8 * size - 1)) <= number < 1 << (8 * size - 1):
            forms.append(bytes([code]) + number.to_bytes(size, "little", signed=True))
    return forms[style.number(0, len(forms) - 1)]


def intset(cells: list[bytes], style: Style) -> bytes:
    """Ascending numbers."""
    numbers = sorted(int(cell) for cell in cells)
    fitting = [w for w in (2, 4, 8) if all(-(1 << (8 * w - 1)) <= n < 1 << (8 * w - 1) for n in numbers)]
    width = fitting[style.number(0, len(fitting) - 1)]
    body = b"".join(number.to_bytes(width, "little", signed=True) for number in numbers)
    return struct.pack("<II", width, len(numbers)) + body


def listpack(cells: list[bytes | int], style: Style) -> bytes:
    """Entries; an int is always written as one, text that looks like one usually is."""
    body = bytearray()
    for cell in cells:
        number = cell if isinstance(cell, int) else canonical_integer(cell, 64)
        as_text = number is None or (not isinstance(cell, int) and style.one_in(5))
        entry = _listpack_text(cell if isinstance(cell, bytes) else b"", style) if as_text else b""
        if not as_text and number is not None:
            entry = _listpack_number(number, style)
        body += entry + _backlen(len(entry))
    count = 65535 if len(cells) >= 65535 or style.one_in(8) else len(cells)
    return struct.pack("<IH", 7 + len(body), count) + bytes(body) + b"\xff"


def _listpack_text(cell: bytes, style: Style) -> bytes:
    forms = [bytes([0x80 | len(cell)])] if len(cell) < 1 << 6 else []
    if len(cell) < 1 << 12:
        forms.append(struct.pack(">H", 0xE000 | len(cell)))
    forms.append(b"\xf0" + struct.pack("<I", len(cell)))
    return forms[style.number(0, len(forms) - 1)] + cell


def _listpack_number(number: int, style: Style) -> bytes:
    forms = [bytes([number])] if 0 <= number < 128 else []
    if -(1 << 12) <= number < 1 << 12:
        forms.append(struct.pack(">H", 0xC000 | number & 0x1FFF))
    for code, size in ((0xF1, 2), (0xF2, 3), (0xF3, 4), (0xF4, 8)):
        if -(1 << (8 * size - 1)) <= number < 1 << (8 * size - 1):
            forms.append(bytes([code]) + number.to_bytes(size, "little", signed=True))
    return forms[style.number(0, len(forms) - 1)]


def _backlen(size: int) -> bytes:
    count = backlen_size(size)
    groups = [size >> 7 * place & 127 for place in reversed(range(count))]
    return bytes([groups[0], *[group | 128 for group in groups[1:]]])
