"""CRC-64 as the servers use it: two ways to compute it, and a slow one to compare them with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.kernel.crc64 import crc64, crc64_sliced
from tests.oracle import primitives

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK = 0xE9C6D914C4B8D9CA
EDGES = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 4095, 4096, 4097, 10_000]

sums = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("compute", [crc64, crc64_sliced])
def test_the_standard_check(compute: Callable[[bytes], int]) -> None:
    """The value that every implementation of this CRC gives for the digits 1 to 9."""
    assert compute(b"123456789") == CHECK


@pytest.mark.parametrize("size", EDGES)
def test_folding_slicing_and_the_bytewise_way_agree(size: int) -> None:
    """Around every size at which one way hands over to another, and on from any sum."""
    data = bytes((number * 7 + number // 256) % 256 for number in range(size))
    assert crc64(data) == crc64_sliced(data) == primitives.crc64(data)
    assert crc64(data, CHECK) == crc64_sliced(data, CHECK)


@given(st.binary(max_size=700), st.integers(0, 16), sums)
def test_both_ways_agree_on_anything(data: bytes, start: int, crc: int) -> None:
    """Whatever the bytes, where they begin in memory, and the sum before them."""
    view = memoryview(data)[start:]
    assert crc64(view, crc) == crc64_sliced(view, crc)


@given(st.binary(max_size=700), st.integers(0, 700))
def test_pieces_add_up(data: bytes, cut: int) -> None:
    """A snapshot is summed as it comes: any cut gives the same."""
    assert crc64(data[cut:], crc64(data[:cut])) == crc64(data)
