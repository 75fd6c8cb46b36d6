"""The containers that servers store as one string: zipmap, ziplist, intset, listpack."""

from __future__ import annotations

import struct

from tests.oracle.model import OracleError


def _number(blob: bytes, at: int, size: int) -> int:
    if at + size > len(blob):
        raise OracleError("container is cut", at)
    return int.from_bytes(blob[at : at + size], "little", signed=True)


def _text(blob: bytes, at: int, size: int) -> bytes:
    if at + size > len(blob):
        raise OracleError("container is cut", at)
    return blob[at : at + size]


def _byte(blob: bytes, at: int) -> int:
    return _text(blob, at, 1)[0]


def zipmap(blob: bytes) -> list[bytes]:
    """Keys and values in turn (zipmap.c)."""
    found: list[bytes] = []
    at = 1  # the first byte counts pairs, but only up to 253
    while _byte(blob, at) != 0xFF:
        size = blob[at]
        at += 1
        if size == 254:
            size = int.from_bytes(_text(blob, at, 4), "little")
            at += 4
        free = 0
        if len(found) % 2:
            free = _byte(blob, at)
            at += 1
        found.append(_text(blob, at, size))
        at += size + free
    if at != len(blob) - 1 or len(found) % 2:
        raise OracleError("bad end of a zipmap", at)
    return found


def ziplist(blob: bytes) -> list[bytes]:
    """Entries, numbers as decimal text (ziplist.c)."""
    if len(blob) < 11 or struct.unpack("<I", blob[:4])[0] != len(blob):
        raise OracleError("bad ziplist header", 0)
    found: list[bytes] = []
    at = 10
    while _byte(blob, at) != 0xFF:
        at += 5 if blob[at] == 254 else 1
        code = _byte(blob, at)
        fixed = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}.get(code)
        if code >> 6 < 3:
            if code >> 6 == 0:
                head, size = 1, code & 63
            elif code >> 6 == 1:
                head, size = 2, (code & 63) << 8 | _byte(blob, at + 1)
            else:
                head, size = 5, int.from_bytes(_text(blob, at + 1, 4), "big")
            found.append(_text(blob, at + head, size))
            at += head + size
        elif fixed is not None:
            found.append(b"%d" % _number(blob, at + 1, fixed))
            at += 1 + fixed
        elif 0xF1 <= code <= 0xFD:
            found.append(b"%d" % ((code & 15) - 1))
            at += 1
        else:
            raise OracleError(f"unknown ziplist encoding {code:#x}", at)
    if at != len(blob) - 1:
        raise OracleError("bytes behind the end of a ziplist", at)
    return found


def intset(blob: bytes) -> list[bytes]:
    """Numbers as decimal text (intset.c)."""
    if len(blob) < 8:
        raise OracleError("intset is cut", 0)
    width, count = struct.unpack("<II", blob[:8])
    if width not in (2, 4, 8) or len(blob) != 8 + width * count:
        raise OracleError("bad intset header", 0)
    return [b"%d" % _number(blob, 8 + width * index, width) for index in range(count)]


def listpack(blob: bytes) -> list[bytes | int]:
    """Entries; numbers stay numbers (listpack.c)."""
    if len(blob) < 7 or struct.unpack("<I", blob[:4])[0] != len(blob):
        raise OracleError("bad listpack header", 0)
    found: list[bytes | int] = []
    at = 6
    while _byte(blob, at) != 0xFF:
        value, size = _listpack_entry(blob, at)
        found.append(value)
        at += size + backlen_size(size)
    if at != len(blob) - 1:
        raise OracleError("bytes behind the end of a listpack", at)
    return found


def _listpack_entry(blob: bytes, at: int) -> tuple[bytes | int, int]:
    """(value, bytes without the backlen)."""
    code = blob[at]
    fixed = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}.get(code)
    if code < 0x80:
        return code, 1
    if code >> 6 == 2:
        return _text(blob, at + 1, code & 63), 1 + (code & 63)
    if code >> 5 == 6:
        number = (code & 31) << 8 | _byte(blob, at + 1)
        return number - (1 << 13) if number >> 12 else number, 2
    if code >> 4 == 14:
        size = (code & 15) << 8 | _byte(blob, at + 1)
        return _text(blob, at + 2, size), 2 + size
    if code == 0xF0:
        size = int.from_bytes(_text(blob, at + 1, 4), "little")
        return _text(blob, at + 5, size), 5 + size
    if fixed is not None:
        return _number(blob, at + 1, fixed), 1 + fixed
    raise OracleError(f"unknown listpack encoding {code:#x}", at)


def backlen_size(size: int) -> int:
    """Bytes of the backward length behind an entry of *size* bytes (listpack.c:lpEncodeBacklenBytes)."""
    if size <= 127:
        return 1
    if size < 16383:
        return 2
    if size < 2097151:
        return 3
    return 4 if size < 268435455 else 5


def texts(cells: list[bytes | int]) -> list[bytes]:
    """Numbers of a listpack as decimal text."""
    return [b"%d" % cell if isinstance(cell, int) else cell for cell in cells]
