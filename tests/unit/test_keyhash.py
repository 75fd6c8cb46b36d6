"""Hashes of key names: the reference vectors, and the comparison of snapshot and target against plain sets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.errors import InternalError, SpoolError
from portd.kernel.batch import Batch
from portd.kernel.keyhash import BUCKETS, HashSet, KeyBuckets, names_of, siphash128
from portd.spool.buckets import NOWHERE, BucketFile
from tests.oracle.resp import pack

SECRET = bytes(range(16))
Key = tuple[int, bytes]


def test_the_hash_is_siphash() -> None:
    """The vectors of its authors (SipHash-2-4-128, key 00..0f, messages of 0 and 1 bytes)."""
    assert siphash128(SECRET, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash128(SECRET, b"\x00").hex() == "da87c1d86b99af44347659119b22fc45"


def test_a_snapshot_key_is_hashed_with_its_database() -> None:
    """What `add` stores is the hash over the database's number and the name, and the bucket follows from it."""
    buckets = KeyBuckets(SECRET)
    buckets.add(3, b"some name")
    ((bucket, block),) = buckets.take_rest()
    expected = siphash128(SECRET, (3).to_bytes(8, "little") + b"some name")
    assert block == expected
    assert bucket == int.from_bytes(expected[:8], "little") * BUCKETS >> 64


def missing(snapshot: list[Key], target: list[Key], slice_blocks: int = 1 << 30) -> set[Key]:
    """What the units find, with the hashes of a bucket asked in slices of so many blocks."""
    hashes, names = KeyBuckets(SECRET, block_bytes=64), KeyBuckets(SECRET, block_bytes=64)
    for key in snapshot:
        hashes.add(*key)
    for db in {db for db, _ in target}:
        names.add_names(db, [name for other, name in target if other == db])
    by_bucket: dict[int, list[bytes]] = {}
    for bucket, block in hashes.take() + hashes.take_rest():
        by_bucket.setdefault(bucket, []).append(block)
    found: set[Key] = set()
    for bucket, block in names.take() + names.take_rest():
        blocks, left = by_bucket.get(bucket, []), block
        for first in range(0, len(blocks), slice_blocks):
            left = HashSet(blocks[first : first + slice_blocks]).missing(left)
        found.update(names_of(left))
    return found


KEYS = st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=100)), max_size=200)


@given(KEYS, KEYS, st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_the_difference_is_that_of_sets(snapshot: list[Key], target: list[Key], slice_blocks: int) -> None:
    """Exactly the target's keys that the snapshot lacks are found, however the hashes are sliced."""
    assert missing(snapshot, target, slice_blocks) == {*target} - {*snapshot}


def test_many_keys() -> None:
    """Thousands of keys in a bucket: tables wrap around and blocks overflow."""
    rng = random.Random(1)
    keys = [(0, rng.randbytes(rng.randrange(40))) for _ in range(60_000)]
    ghosts = [(0, b"ghost %d" % number) for number in range(5000)]
    assert missing(keys, keys + ghosts) == {*ghosts}


@pytest.mark.parametrize("text", [b"return 1", b"--" + b"x" * 200_000])
def test_what_stands_behind_the_keys_is_no_key(text: bytes) -> None:
    """A snapshot brings function libraries and cached scripts along; a batch may hold both kinds and nothing else."""
    for words in ([b"FUNCTION", b"LOAD", b"REPLACE", text], [b"SCRIPT", b"LOAD", text]):
        buckets = KeyBuckets(SECRET)
        buckets.add_batch(Batch(pack([b"SET", b"k", b"v"]) + pack(words), replies=2, db=0))
        buckets.add_batch(Batch(pack(words), replies=1, db=0))
        assert buckets.keys == 1


def test_unknown_commands_are_no_guess() -> None:
    """A batch with a command whose keys are not known ends in an error, not in a key that looks like a ghost."""
    buckets = KeyBuckets(SECRET)
    with pytest.raises(InternalError, match="COPY"):
        buckets.add_batch(Batch(b"*2\r\n$4\r\nCOPY\r\n$1\r\na\r\n", replies=1, db=0))


def test_a_bucket_file_gives_back_what_it_took(tmp_path: Path) -> None:
    """Blocks come back by bucket, newest first, in portions; the file has no name."""
    file = BucketFile(tmp_path, 4)
    for number in range(10):
        file.append([(number % 3, b"%d" % number * number), (1, b"x")])
    assert list(tmp_path.iterdir()) == []
    found, place = [], file.head(0)
    while place != NOWHERE:
        blocks, place = file.read(place, 8)
        found += blocks
    assert found == [b"9" * 9, b"6" * 6, b"3" * 3, b""]
    assert file.head(3) == NOWHERE
    file.close()
    file.close()


def test_a_full_disk_is_a_spool_error() -> None:
    """What the disk refuses is told with what to do."""
    with pytest.raises(SpoolError, match="key names"):
        BucketFile(Path("/proc"), 4)
