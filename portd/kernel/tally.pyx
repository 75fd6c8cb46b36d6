# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Keys counted instead of told: a line for each key, or a report about all of them."""

cimport cython
from heapq import heappush, heappushpop

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memset

from portd.kernel.encodings cimport (
    C_LIST, C_MODULE, C_OTHER, C_STREAM, C_STRING, C_ZSET, ENCODINGS, K_INTSET, K_LISTPACK, K_NONE, layout_of,
)
from portd.kernel.handler cimport F_DOUBLE, F_WHOLE, Handler, Item, Key, P_ELEMENTS
from portd.kernel.lines cimport LineWriter


cdef enum:
    PREFIXES = 10000                # told apart; keys of more are counted together
    PREFIX_BYTES = 128              # of a prefix that is kept

cdef enum:                          # bytes of a server's memory
    OBJECT = 16                     # robj
    TABLE_ENTRY = 24 + 11           # dictEntry, and its part of a table that is three quarters full
    DICT = 64                       # or quicklist with a node
    SKIPLIST_NODE = 48              # with 1.33 levels
    PACKED_SCORE = 10               # in a listpack
    LISTPACK = 7
    FIELD_EXPIRY = 24
    STREAM = 600                    # with its tree
    STREAM_NODE = 4096              # the last one has room for more
    STREAM_ENTRY = 10               # beside what is in its fields
    STREAM_GROUP = 160              # or consumer
    STREAM_PENDING = 64             # in the tree of a group; half as much in that of a consumer

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
        self.container = K_NONE
        self.memory = string_memory(value)
        return self._count(key, 1)

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self.elements = collection == C_STRING
        self.container = layout_of(key.encoding).container
        self.memory = 0
        self.each = 0
        if self.container == K_NONE:
            self.memory = DICT if collection != C_STRING else 0
            self.each = TABLE_ENTRY if collection != C_ZSET else TABLE_ENTRY + SKIPLIST_NODE
        elif collection == C_LIST:
            self.memory = DICT
        elif collection == C_STREAM:
            self.memory = STREAM
        return 0

    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1:
        if at == 0:
            self.memory = text_memory(total)
        return 0

    cdef int end(self, Key* key) except -1:
        return self._count(key, self.elements)

    cdef int abandon(self, Key* key, str reason) except -1:
        self.keys_failed += 1
        return 0

    cdef int element(self, Item* item) except -1:
        self.elements += 1
        self.memory += self.each + item_memory(item, self.container)
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        self.elements += 1
        self.memory += self.each + item_memory(member, self.container)
        if self.container != K_NONE:
            self.memory += item_memory(score, self.container) if score.form != F_DOUBLE else PACKED_SCORE
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        self.elements += 1
        self.memory += self.each + item_memory(name, self.container) + item_memory(value, self.container)
        if expire_ms >= 0:
            self.memory += FIELD_EXPIRY
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self.elements += 1
        self.memory += sizeof(void*) + item_memory(value, K_NONE)
        return 0

    cdef int large_item(self, uint64_t n) except -1:
        self.memory += text_memory(n)
        return 0

    cdef int large_end(self, Item* last) except -1:
        self.elements += 1
        self.memory += self.each
        return 0

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        self.memory += STREAM_ENTRY
        return 0

    cdef int entry_item(self, Item* item) except -1:
        self.memory += item_memory(item, K_LISTPACK)
        return 0

    cdef int entry_end(self) except -1:
        self.elements += 1
        return 0

    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1:
        self.memory += STREAM_GROUP
        return 0

    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1:
        self.memory += STREAM_PENDING
        return 0

    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1:
        self.memory += STREAM_GROUP
        return 0

    cdef int owns(self, const unsigned char* id) except -1:
        self.memory += STREAM_PENDING // 2
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
        cdef int collection = layout_of(key.encoding).collection
        if collection == C_MODULE or collection == C_OTHER:
            self.memory = key.bytes
        elif collection == C_STREAM:
            self.memory = max(self.memory, <uint64_t>(STREAM + STREAM_NODE))
        elif self.container != K_NONE and collection != C_LIST:
            self.memory = room(LISTPACK + self.memory)
        self.memory += TABLE_ENTRY + OBJECT + text_memory(key.size)
        if key.expire_ms >= 0:
            self.memory += TABLE_ENTRY
        if key.db != self.last_db:
            self.last_group = self._group_of(self.databases, key.db)
            self.last_db = key.db
        if key.expire_ms >= 0:
            bucket = 0
            while bucket < TTL_BUCKETS - 2 and key.expire_ms - self.now_ms > 1000 * <int64_t>TTL_LIMITS[bucket]:
                bucket += 1
        add(&self.encodings[key.encoding], key, elements, self.memory)
        add(&self.groups[self.last_group], key, elements, self.memory)
        add(&self.expiries[bucket], key, elements, self.memory)
        if self.separator:
            mark = <const unsigned char*>memchr(key.name, self.separator, key.size)
            size = mark - key.name + 1 if mark != NULL else 0
        else:
            size = 0
        name = key.name[:min(size, <Py_ssize_t>PREFIX_BYTES)]
        add(&self.groups[self._group_of(self.prefixes, name)], key, elements, self.memory)
        if key.bytes > self.least_bytes or elements > self.least_elements:
            return self._note_big(key, elements)
        return 0

    cdef int _note_big(self, Key* key, uint64_t elements) except -1:
        cdef tuple about
        if self.top == 0:
            self.least_bytes = self.least_elements = <uint64_t>-1
            return 0
        about = (
            key.db, key.name[:min(key.size, <Py_ssize_t>1024)], key.encoding, key.bytes, elements, key.expire_ms, key.offset,
            self.memory,
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
        total = [0, 0, 0, 0, 0]
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


# -- what a value takes in the memory of a server of 64 bits with jemalloc, about as MEMORY USAGE tells it --------------------

cdef inline uint64_t room(uint64_t n) noexcept nogil:
    """What an allocation of n bytes takes: eights up to 64, then four sizes between two powers of two."""
    cdef uint64_t step = 8
    while n > 8 * step:
        step *= 2
    return (n + step - 1) // step * step


cdef inline uint64_t text_memory(uint64_t n) noexcept nogil:
    """A string of its own (sds.c): its header and a zero behind it."""
    return room(n + (2 if n < 32 else 4 if n < 256 else 6 if n < 65536 else 10))


cdef inline bint is_number(Item* item) noexcept nogil:
    """The text of an integer that fits 64 bits."""
    cdef uint64_t at
    if item.form != F_WHOLE or item.n == 0 or item.n > 20:
        return False
    for at in range(1 if item.p[0] == c"-" and item.n > 1 else 0, item.n):
        if item.p[at] < c"0" or item.p[at] > c"9":
            return False
    return True


cdef inline uint64_t string_memory(Item* value) noexcept nogil:
    """A string value beside its object: nothing for a number, which stands in it; a short text stands behind it."""
    if is_number(value):
        return 0
    return room(OBJECT + value.n + 4) - OBJECT if value.n <= 44 else text_memory(value.n)


cdef uint64_t item_memory(Item* item, int container) noexcept nogil:
    """An element: by itself, or in a container (listpack.c, intset.c)."""
    cdef uint64_t n = item.n
    if container == K_NONE:
        return text_memory(n)
    if container == K_INTSET:
        return 2 if n <= 4 else 4 if n <= 9 else 8
    if is_number(item):
        return 2 if n <= 2 else 3 if n <= 3 else 4 if n <= 4 else 5 if n <= 6 else 6 if n <= 9 else 10
    return n + (2 if n < 64 else 4 if n < 4096 else 10)


TYPE_NAMES = ("string", "list", "set", "zset", "hash", "stream", "module", "array", "other")


cdef inline void add(Count* count, Key* key, uint64_t elements, uint64_t memory) noexcept:
    count.keys += 1
    count.bytes += key.bytes
    count.elements += elements
    count.expiring += key.expire_ms >= 0
    count.memory += memory


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
    return [count.keys, count.bytes, count.elements, count.expiring, count.memory]


def gather(into, name, counts):
    into[name] = [one + other for one, other in zip(into.get(name, (0, 0, 0, 0, 0)), counts)]


def shown(found):
    db, key, encoding, size, elements, expire_ms, _, memory = found[2]
    return {
        "db": db,
        "key": key,
        "type": TYPE_NAMES[layout_of(encoding).collection],
        "encoding": layout_of(encoding).name.decode(),
        "bytes": size,
        "memory": memory,
        "elements": elements,
        "expireat": expire_ms if expire_ms >= 0 else None,
    }
