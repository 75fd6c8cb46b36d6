"""CRC-64/Jones as Redis and Valkey use it (crc64.c): reflected, initial value 0, no final xor."""

from typing_extensions import Buffer

def crc64(data: Buffer, crc: int = 0) -> int:
    """The checksum of *data* continued from *crc*. ``crc64(b"123456789") == 0xE9C6D914C4B8D9CA``."""

def crc64_sliced(data: Buffer, crc: int = 0) -> int:
    """The same by tables alone, as processors without carry-less multiplication do it: for comparison."""
