"""Hashes of key names in buckets: which keys of a target does a snapshot not have? No I/O.

A *block* is bytes of one bucket: 16-byte hashes of snapshot keys, or records of target keys (hash, database, name). A
key is its database and its name together. The hash is SipHash-2-4 of 128 bits under a random secret: among 10^8 keys
against 10^8 others, two that differ and share a hash are to be expected once in 10^22 comparisons of that size.
"""

from typing import Final, final

from typing_extensions import Buffer

from portd.kernel.batch import Batch

HASH_SIZE: Final[int]
BUCKETS: Final[int]
"""Number of buckets; 100 million keys are about 200,000 in each."""

def siphash128(secret: Buffer, data: bytes) -> bytes:
    """SipHash-2-4 with 128 bits of result, as its authors define it; *secret* has 16 bytes."""

@final
class KeyBuckets:
    """Sorts hashes of snapshot keys, or names of target keys, into buckets; one instance does one of the two.

    Args:
        secret: 16 random bytes, the same for both sides.
        block_bytes: a block is full at this size; a name that is longer gets a larger block of its own.
    """

    def __new__(cls, secret: Buffer, *, block_bytes: int = ...) -> KeyBuckets: ...
    def add(self, db: int, name: bytes) -> None:
        """One snapshot key."""
    def add_batch(self, batch: Batch) -> None:
        """The snapshot keys that begin in a batch.

        Raises:
            InternalError: the batch holds a command that this unit does not know.
        """
    def add_names(self, db: int, names: list[bytes]) -> None:
        """Keys that a target has."""
    def take(self) -> list[tuple[int, bytes]]:
        """Full blocks with the number of their bucket, since the last call."""
    def take_rest(self) -> list[tuple[int, bytes]]:
        """All that is left."""
    @property
    def keys(self) -> int:
        """Keys added."""
    @property
    def full_bytes(self) -> int:
        """Bytes that `take` would return."""
    @property
    def owned_bytes(self) -> int: ...

@final
class HashSet:
    """The hashes of some blocks, to be asked for."""

    def __new__(cls, blocks: list[bytes]) -> HashSet: ...
    def missing(self, block: bytes) -> bytes:
        """The records of a block of names whose hash is not in the set."""
    @property
    def hashes(self) -> int: ...
    @property
    def owned_bytes(self) -> int: ...

def names_of(block: bytes) -> list[tuple[int, bytes]]:
    """Database and name of every record in a block of names."""
