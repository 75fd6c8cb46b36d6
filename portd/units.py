"""Sizes, durations and counts: read from settings, written for people."""

from __future__ import annotations

import math
import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


def parse_size(text: str) -> int:
    """Bytes from `16MiB`, `64k` (= KiB), `1GB` (decimal) or a plain number.

    Raises:
        ValueError: not a size.
    """
    found = _SIZE.fullmatch(text)
    factor = _UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError("not a size; write a number of bytes, or one with a unit such as 512KiB, 16MiB, 2GiB")
    return int(float(found[1]) * factor) if "." in found[1] else int(found[1]) * factor


def show_size(size: int) -> str:
    """A size in its largest exact binary unit: `parse_size` reads it back."""
    for name, unit in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def human_bytes(size: float) -> str:
    """A size to read at a glance: three digits or so, binary unit."""
    if abs(size) < KIB:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if abs(size) < 1000 or unit == "TiB":
            break
    return f"{size:.{max(0, 2 - int(math.log10(max(abs(size), 1))))}f} {unit}"


def human_count(count: float) -> str:
    """A count with thousands set apart by thin, unbreakable spaces."""
    return f"{count:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def human_short(count: float) -> str:
    """A count in few columns: up to four digits, or three and `k`, `M`, `G`."""
    if count < 9999.5:
        return f"{count:.0f}"
    for unit in ("k", "M", "G"):
        count /= 1000
        if count < 999.5 or unit == "G":
            break
    return f"{count:.{max(0, 2 - int(math.log10(max(count, 1))))}f}{unit}"


def human_seconds(seconds: float) -> str:
    """A duration: `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
