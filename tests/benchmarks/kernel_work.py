"""What runs under the instruction counter: one job of the kernel on one file, so many times. Imports next to nothing.

``python -m tests.benchmarks.kernel_work JOB FILE TIMES`` does it; `tests.benchmarks.instructions` counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

FEED_BYTES = 256 * 1024


def decode(data: bytes, *, whole: bool) -> None:
    """A snapshot into batches for a Valkey 9 target; with *whole* false every collection becomes element commands."""
    from portd.kernel.snapshot import Dialect, SnapshotDecoder

    decoder = SnapshotDecoder(
        Dialect(
            valkey=whole,
            rdb_version=80 if whole else 0,  # RESTORE of nothing
            footer=80 if whole else 0,
            server_version=(9, 1),
            mset=True,
            modules=frozenset(),
            commands=frozenset({"unlink", "function", "hpexpireat", "hsetex"}),
            maxmemory_policy="noeviction",
        )
    )
    view = memoryview(data)
    at = 0
    while not decoder.ended:
        at += decoder.feed(view[at : at + FEED_BYTES])
        while decoder.next_batch() is not None:
            pass


def split(data: bytes) -> None:
    """A stream into pieces, as the applier takes them."""
    from portd.kernel.stream import StreamSplitter

    splitter = StreamSplitter(0, 0, pxat=True)
    view = memoryview(data)
    at = 0
    while at < len(data):
        at += splitter.feed(view[at : at + FEED_BYTES], 1_700_000_000_000)
        while splitter.next_piece(FEED_BYTES, 4096) is not None:
            pass


def count(data: bytes) -> None:
    """Replies."""
    from portd.kernel.replies import ReplyCounter

    counter = ReplyCounter()
    view = memoryview(data)
    for at in range(0, len(data), FEED_BYTES):
        counter.feed(view[at : at + FEED_BYTES])


JOBS = {
    "strings": lambda data: decode(data, whole=True),
    "mixed": lambda data: decode(data, whole=True),
    "elements": lambda data: decode(data, whole=False),
    "big-hash": lambda data: decode(data, whole=True),
    "stream": split,
    "replies": count,
}


def main() -> None:
    """Does one job TIMES times."""
    job, data = JOBS[sys.argv[1]], Path(sys.argv[2]).read_bytes()
    for _ in range(int(sys.argv[3])):
        job(data)


if __name__ == "__main__":
    main()
