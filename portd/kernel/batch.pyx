# cython: language_level=3, auto_pickle=False
"""What one write to the target sends; see the stub for the contract between decoder and lanes."""

cimport cython


@cython.final
cdef class Batch:
    def __init__(
        self,
        bytes data not None,
        *,
        int64_t replies,
        int db,
        int64_t keys=0,
        int kind=WHOLE,
        uint64_t fence=0,
        bytes key not None=b"",
        uint64_t offset=0,
        uint64_t base=0,
        bint part=False,
    ):
        self.data = data
        self.replies = replies
        self.db = db
        self.keys = keys
        self.kind = kind
        self.fence = fence
        self.key = key
        self.offset = offset
        self.base = base
        self.part = part

    def __len__(self):
        return len(self.data)

    def __repr__(self):
        kind = ("WHOLE", "OPEN", "SPREAD", "ORDERED", "CLOSE")[self.kind]
        return (
            f"Batch({kind}, {len(self.data)} bytes, replies={self.replies}, db={self.db}, keys={self.keys},"
            f" fence={self.fence}, base={self.base}, part={self.part}, offset={self.offset})"
        )
