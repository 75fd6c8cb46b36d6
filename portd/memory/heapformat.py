"""A heap profile as bytes: pprof's format, which `go tool pprof` reads, and text.

pprof's format is a protobuf message, compressed with gzip (github.com/google/pprof, proto/profile.proto). The few field
types it needs are written by hand here; numbers in comments are field numbers of that file.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING

from portd.memory.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.memory.heap import HeapProfile, Sample
    from portd.memory.heapnames import Function, FunctionNames

SAMPLE_TYPES = (
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
)
_GZIP_WINDOW = 31  # zlib's window bits: 15, and 16 for a gzip header
_LENGTH = 2  # protobuf wire type: bytes with their length
_SHORT = tuple(bytes([value]) for value in range(128))  # most numbers: made once
_PIECE_BYTES = 16 * 1024  # compressed at once: half a millisecond


def varint(value: int) -> bytes:
    """A number in protobuf's base 128; negative ones in 64-bit two's complement."""
    if 0 <= value < len(_SHORT):
        return _SHORT[value]
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that is a number; left out when it is 0, as protobuf's default."""
    return varint(field << 3) + varint(value) if value else b""


def message(field: int, data: bytes) -> bytes:
    """A field that is text, a message or packed numbers."""
    return varint(field << 3 | _LENGTH) + varint(len(data)) + data


def packed(field: int, values: Iterable[int]) -> bytes:
    """A field that is a list of numbers."""
    return message(field, b"".join(map(varint, values)))


class _Strings:
    """The string table: every text once, the empty one first."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {"": 0}

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def encoded(self) -> bytes:
        return b"".join(message(6, text.encode("utf-8", "replace")) for text in self._places)  # string_table = 6


def _values(sample: Sample) -> tuple[int, int, int, int]:
    """In the order of `SAMPLE_TYPES`."""
    return sample.alloc_objects, sample.alloc_bytes, sample.inuse_objects, sample.inuse_bytes


async def as_pprof(profile: HeapProfile, names: FunctionNames, comments: Iterable[str] = ()) -> bytes:
    """The profile for `go tool pprof`, compressed.

    Args:
        profile: see there.
        names: of functions.
        comments: lines that `pprof -comments` shows.
    """
    slices, strings = Slices(), _Strings()
    functions: dict[Function, int] = {}
    locations: dict[tuple[str, int], int] = {}
    parts = [message(1, number(1, strings.place(kind)) + number(2, strings.place(unit))) for kind, unit in SAMPLE_TYPES]
    for stack, sample in profile.samples.items():  # sample = 2: location_id = 1, value = 2
        places = [locations.setdefault(frame, len(locations) + 1) for frame in stack]
        parts.append(message(2, packed(1, places) + packed(2, _values(sample))))
        await slices.rest()
    # mapping = 3: id = 1, memory_limit = 3, filename = 5, has_functions = 7, has_filenames = 8, has_line_numbers = 9;
    # says that everything is named already, or pprof would ask us for symbols.
    mapping = number(1, 1) + number(3, len(locations) + 1) + number(5, strings.place("portd"))
    parts.append(message(3, mapping + number(7, 1) + number(8, 1) + number(9, 1)))
    for frame, place in locations.items():  # location = 4: id = 1, mapping_id = 2, address = 3, line = 4
        function = functions.setdefault(await names.find(frame, slices), len(functions) + 1)
        where = number(1, function) + number(2, frame[1])  # line: function_id = 1, line = 2
        parts.append(message(4, number(1, place) + number(2, 1) + number(3, place) + message(4, where)))
        await slices.rest()
    for known, place in functions.items():  # function = 5: id, name, system_name, filename, start_line = 1 .. 5
        name = strings.place(known.name)
        text = number(1, place) + number(2, name) + number(3, name) + number(4, strings.place(known.file))
        parts.append(message(5, text + number(5, known.line)))
    parts.append(number(9, int(profile.at * 1e9)) + number(10, int(profile.seconds * 1e9)))  # time, duration
    parts.append(message(11, number(1, strings.place("space")) + number(2, strings.place("bytes"))))  # period_type
    parts.append(number(12, 1) + packed(13, [strings.place(line) for line in comments]))  # period, comment
    parts.append(number(14, strings.place("inuse_space")))  # default_sample_type
    parts.append(strings.encoded())
    return await _compress(b"".join(parts), slices)


async def _compress(data: bytes, slices: Slices) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WINDOW)
    parts = []
    for start in range(0, len(data), _PIECE_BYTES):
        parts.append(packer.compress(data[start : start + _PIECE_BYTES]))
        await slices.rest()
    return b"".join([*parts, packer.flush()])


async def as_text(profile: HeapProfile, names: FunctionNames, comments: Iterable[str] = ()) -> str:
    """The profile to read: stacks by size, as Go's `debug=1` writes them."""
    slices = Slices()
    total = [sum(column) for column in zip(*map(_values, profile.samples.values()), strict=True)] or [0] * 4
    lines = [f"heap profile: {_counts(total)} @ portd", *(f"# {line}" for line in comments), ""]
    for stack, sample in sorted(profile.samples.items(), key=lambda item: -item[1].inuse_bytes):
        lines.append(_counts(_values(sample)))
        for frame in stack:
            name, (file, line) = (await names.find(frame, slices)).name, frame
            lines.append(f"#\t{name}\t{file}:{line}" if line else f"#\t{file}")
            await slices.rest()
        lines.append("")
    return "\n".join(lines)


def _counts(values: Iterable[int]) -> str:
    alloc_objects, alloc_bytes, objects, size = values
    return f"{objects}: {size} [{alloc_objects}: {alloc_bytes}]"


def describe(profile: HeapProfile, rss_bytes: int, owned_bytes: int) -> list[str]:
    """What a reader of the profile should know."""
    inuse = sum(sample.inuse_bytes for sample in profile.samples.values())
    return [
        f"recorded for {profile.seconds:.1f} s until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(profile.at))}",
        f"in use in this profile {inuse} bytes, held by owners {owned_bytes}, resident {rss_bytes}",
        f"recording itself takes {profile.overhead_bytes} bytes",
        "alloc is what two looks a second saw growing: what came and went between two looks is not in it",
    ]
