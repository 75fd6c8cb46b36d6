# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Keys counted instead of told: a line for each key, or a report about all of them."""

cimport cython
from heapq import heappush, heappushpop

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memset

from portd.kernel.encodings cimport C_STRING, ENCODINGS, layout_of
from portd.kernel.handler cimport Handler, Item, Key, P_ELEMENTS
from portd.kernel.lines cimport LineWriter


cdef enum:
    PREFIXES = 10000                # told apart; keys of more are counted together
    PREFIX_BYTES = 128              # of a prefix that is kept

OTHERS = None                       # name of the group of keys whose prefix is one too many
TTL_LIMITS = (0, 60, 3600, 86400, 604800, 2592000, 31536000)    # seconds left; before, between and behind them


@cython.final
cdef class KeyHandler(LineWriter):
    """Writes a JSON object for each key; the stub tells how to use it."""

    def __cinit__(self, *_, **__):
        self.binary_scores = True       # they are counted, not shown

    cdef int _key_line(self, Key* key, uint64_t elements) except -1:
        cdef const char* encoding = layout_of(key.encoding).name
        self._line()
        self._put(self.out, b',"encoding":"')
        self._put(self.out, encoding)
        self._put(self.out, b'","elements":')
        self._unsigned(self.out, elements)
        self._put(self.out, b',"bytes":')
        self._unsigned(self.out, key.bytes)
        return self._end_line()

    cdef int string(self, Key* key, Item* value) except -1:
        self._tell(key, C_STRING)
        return self._key_line(key, 1)

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self.elements = collection == C_STRING
        return self._tell(key, collection)

    cdef int end(self, Key* key) except -1:
        return self._key_line(key, self.elements)

    cdef int element(self, Item* item) except -1:
        self.elements += 1
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        self.elements += 1
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        self.elements += 1
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self.elements += 1
        return 0

    cdef int large_end(self, Item* last) except -1:
        self.elements += 1
        return 0

    cdef int entry_end(self) except -1:
        self.elements += 1
        return 0


@cython.final
cdef class StatsHandler(Handler):
    """Counts keys by what they have in common; the stub tells how to use it."""

    def __cinit__(self, *, Py_ssize_t top=20, bytes separator=b":"):
        self.separator = separator[0] if len(separator) == 1 else 0
        self.top = top
        self.binary_scores = True       # they are counted, not shown
        self.databases = {}
        self.prefixes = {}
        self.last_db = -1
        self.by_bytes = []
        self.by_elements = []

    def __dealloc__(self):
        PyMem_Free(self.groups)

    cdef Py_ssize_t owned(self) noexcept:
        return self.groups_capacity * <Py_ssize_t>sizeof(Count)

    cdef Py_ssize_t bound(self) noexcept:
        return 2 * (PREFIXES + 100000) * <Py_ssize_t>sizeof(Count)

    cdef int plan(self, Key* key) except -1:
        return P_ELEMENTS

    # -- counting ----------------------------------------------------------------------------------------------------------

    cdef int string(self, Key* key, Item* value) except -1:
        return self._count(key, 1)

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self.elements = collection == C_STRING
        return 0

    cdef int end(self, Key* key) except -1:
        return self._count(key, self.elements)

    cdef int abandon(self, Key* key, str reason) except -1:
        self.keys_failed += 1
        return 0

    cdef int element(self, Item* item) except -1:
        self.elements += 1
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        self.elements += 1
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        self.elements += 1
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self.elements += 1
        return 0

    cdef int large_end(self, Item* last) except -1:
        self.elements += 1
        return 0

    cdef int entry_end(self) except -1:
        self.elements += 1
        return 0

    cdef int function(self, Item* code) except -1:
        self.functions += 1
        return 0

    cdef Py_ssize_t _group_of(self, dict names, object name) except -1:
        cdef Py_ssize_t n = len(self.databases) + len(self.prefixes)
        cdef Py_ssize_t capacity
        cdef Count* grown
        found = names.get(name)
        if found is not None:
            return found
        if names is self.prefixes and len(names) >= PREFIXES and name is not OTHERS:
            return self._group_of(names, OTHERS)
        if n == self.groups_capacity:
            capacity = max(<Py_ssize_t>256, 2 * n)
            grown = <Count*>PyMem_Realloc(self.groups, capacity * sizeof(Count))
            if grown == NULL:
                raise MemoryError
            self.groups = grown
            self.groups_capacity = capacity
        memset(&self.groups[n], 0, sizeof(Count))
        names[name] = n
        return n

    cdef int _count(self, Key* key, uint64_t elements) except -1:
        cdef const unsigned char* mark
        cdef Py_ssize_t size = key.size
        cdef int bucket = TTL_BUCKETS - 1
        if key.db != self.last_db:
            self.last_group = self._group_of(self.databases, key.db)
            self.last_db = key.db
        if key.expire_ms >= 0:
            bucket = 0
            while bucket < TTL_BUCKETS - 2 and key.expire_ms - self.now_ms > 1000 * <int64_t>TTL_LIMITS[bucket]:
                bucket += 1
        add(&self.encodings[key.encoding], key, elements)
        add(&self.groups[self.last_group], key, elements)
        add(&self.expiries[bucket], key, elements)
        if self.separator:
            mark = <const unsigned char*>memchr(key.name, self.separator, key.size)
            size = mark - key.name + 1 if mark != NULL else 0
        else:
            size = 0
        name = key.name[:min(size, <Py_ssize_t>PREFIX_BYTES)]
        add(&self.groups[self._group_of(self.prefixes, name)], key, elements)
        if key.bytes > self.least_bytes or elements > self.least_elements:
            return self._note_big(key, elements)
        return 0

    cdef int _note_big(self, Key* key, uint64_t elements) except -1:
        cdef tuple about
        if self.top == 0:
            self.least_bytes = self.least_elements = <uint64_t>-1
            return 0
        about = (
            key.db, key.name[:min(key.size, <Py_ssize_t>1024)], key.encoding, key.bytes, elements, key.expire_ms, key.offset
        )
        if key.bytes > self.least_bytes:
            self.least_bytes = keep(self.by_bytes, (key.bytes, key.offset, about), self.top)
        if elements > self.least_elements:
            self.least_elements = keep(self.by_elements, (elements, key.offset, about), self.top)
        return 0

    # -- the report --------------------------------------------------------------------------------------------------------

    def report(self):
        encodings = {}
        types = {}
        total = [0, 0, 0, 0]
        for number in range(<int>ENCODINGS):
            if self.encodings[number].keys:
                counts = counted(&self.encodings[number])
                encodings[layout_of(number).name.decode()] = counts
                gather(types, TYPE_NAMES[layout_of(number).collection], counts)
                total = [one + other for one, other in zip(total, counts)]
        return {
            "total": total,
            "types": types,
            "encodings": encodings,
            "databases": {name: counted(&self.groups[<Py_ssize_t>group]) for name, group in self.databases.items()},
            "prefixes": {name: counted(&self.groups[<Py_ssize_t>group]) for name, group in self.prefixes.items()},
            "expiries": [counted(&self.expiries[bucket]) for bucket in range(TTL_BUCKETS)],
            "biggest": [shown(found) for found in sorted(self.by_bytes, reverse=True)],
            "longest": [shown(found) for found in sorted(self.by_elements, reverse=True)],
            "functions": self.functions,
        }


TYPE_NAMES = ("string", "list", "set", "zset", "hash", "stream", "module", "array", "other")


cdef inline void add(Count* count, Key* key, uint64_t elements) noexcept:
    count.keys += 1
    count.bytes += key.bytes
    count.elements += elements
    count.expiring += key.expire_ms >= 0


cdef uint64_t keep(list heap, tuple found, Py_ssize_t most) except? <uint64_t>-1:
    """Puts a key among the biggest; returns what the next one must pass."""
    if len(heap) < most:
        heappush(heap, found)
        if len(heap) < most:
            return 0
    else:
        heappushpop(heap, found)
    return heap[0][0]


cdef list counted(Count* count):
    return [count.keys, count.bytes, count.elements, count.expiring]


def gather(into, name, counts):
    into[name] = [one + other for one, other in zip(into.get(name, (0, 0, 0, 0)), counts)]


def shown(found):
    db, key, encoding, size, elements, expire_ms, _ = found[2]
    return {
        "db": db,
        "key": key,
        "type": TYPE_NAMES[layout_of(encoding).collection],
        "encoding": layout_of(encoding).name.decode(),
        "bytes": size,
        "elements": elements,
        "expireat": expire_ms if expire_ms >= 0 else None,
    }
