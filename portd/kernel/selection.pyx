# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""Which values somebody wants to see: by type, key, database and size."""

cimport cython
from libc.stdint cimport uint64_t

from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET,
)
from portd.kernel.handler cimport Key


cdef extern from "native/text.h" nogil:
    bint portd_glob(const unsigned char* pattern, size_t size, const unsigned char* text, size_t n)


cdef tuple NAMES = (
    ("string", C_STRING), ("list", C_LIST), ("set", C_SET), ("zset", C_ZSET), ("hash", C_HASH), ("stream", C_STREAM),
    ("module", C_MODULE), ("array", C_ARRAY), ("other", C_OTHER),
)
DEFAULT_TYPES = tuple([name for name, _ in NAMES]) + ("function",)
TYPES = DEFAULT_TYPES + ("aux",)


@cython.final
cdef class Selection:
    def __init__(self, *, types=DEFAULT_TYPES, patterns=(), databases=(), min_bytes=0, max_bytes=None):
        wanted = set(types)
        unknown = wanted.difference(TYPES)
        if unknown:
            raise ValueError(f"no such type: {', '.join(sorted(unknown))}")
        for name, number in NAMES:
            self.collections[<int>number] = name in wanted
        self.functions = "function" in wanted
        self.aux = "aux" in wanted
        self.patterns = tuple([bytes(pattern) for pattern in patterns])
        self.databases = frozenset(databases)
        self.min_bytes = min_bytes
        self.max_bytes = <uint64_t>-1 if max_bytes is None else max_bytes
        self.sized = min_bytes > 0 or max_bytes is not None

    cdef bint takes(self, Key* key, int collection) except -1:
        """Whether type, database and name are wanted."""
        cdef bytes pattern
        if not self.collections[collection]:
            return False
        if self.databases and key.db not in self.databases:
            return False
        if not self.patterns:
            return True
        for pattern in self.patterns:
            if portd_glob(<const unsigned char*><const char*>pattern, len(pattern), key.name, key.size):
                return True
        return False

    cdef bint fits(self, Key* key) noexcept:
        """Whether the size is wanted, once it was measured; what is not known is larger than a chunk."""
        cdef uint64_t size = key.bytes if key.bytes else <uint64_t>-1
        return self.min_bytes <= size and (self.max_bytes == <uint64_t>-1 or size <= self.max_bytes)
