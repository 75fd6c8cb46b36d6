# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Which keys are taken: by name, database, slot, and what is known of their values. Nothing is allocated for a key, and no
pattern makes a key expensive.

Globs are those of KEYS (util.c:stringmatchlen), read once into sets of bytes. A star that turned out to be too short is
taken further, and never one before it: the time for a key is at most its length times that of the pattern.

Regular expressions are RE2's: they take time in proportion to the key, whatever it holds. All of them are one expression, that
Python's binding is asked for; whoever gives none does not need it.

Two things differ from what some servers do, by intent: bytes above 127 in a range are ordered as unsigned numbers, which in
a server depends on its processor; and a star fits an empty rest everywhere.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.errors import ConfigError

from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, layout_of,
)
from portd.kernel.handler cimport Key
from portd.kernel.prefixes cimport Prefixes
from portd.kernel.slots cimport slot_of

cdef bytes SPECIAL = b"*?["
cdef bytes REGEX = b"re:"           # before a pattern that is a regular expression

cdef tuple NAMES = (
    ("string", C_STRING), ("list", C_LIST), ("set", C_SET), ("zset", C_ZSET), ("hash", C_HASH), ("stream", C_STREAM),
    ("module", C_MODULE), ("array", C_ARRAY), ("other", C_OTHER),
)
TYPES = tuple([name for name, _ in NAMES])
REASONS = ("", "key", "db", "slot", "type", "size", "ttl")  # of `Reason`, in its order


cdef inline void _put(Step* step, uint8_t byte) noexcept nogil:
    step.bytes[byte >> 6] |= <uint64_t> 1 << (byte & 63)


cdef inline bint _has(const Step* step, uint8_t byte) noexcept nogil:
    return (step.bytes[byte >> 6] >> (byte & 63)) & 1


cdef Py_ssize_t _read_class(const uint8_t* text, Py_ssize_t size, Py_ssize_t i, Step* step) noexcept:
    """Reads what stands behind a ``[``; the index of its ``]``, or of the pattern's end where that is missing."""
    cdef bint inverse = i < size and text[i] == c"^"
    cdef int byte, low, high
    cdef int word
    i += inverse
    while i < size:
        if text[i] == c"\\" and i + 1 < size:
            i += 1
            _put(step, text[i])
        elif text[i] == c"]":
            break
        elif i + 2 < size and text[i + 1] == c"-":
            low, high = min(text[i], text[i + 2]), max(text[i], text[i + 2])
            for byte in range(low, high + 1):
                _put(step, <uint8_t> byte)
            i += 2
        else:
            _put(step, text[i])
        i += 1
    if inverse:
        for word in range(4):
            step.bytes[word] = ~step.bytes[word]
    return i


cdef Py_ssize_t _read_glob(const uint8_t* text, Py_ssize_t size, Step* steps) noexcept:
    """Reads a pattern; how many steps it has, never more than bytes."""
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t i = 0
    cdef int word
    while i < size:
        if text[i] == c"*":
            if count > 0 and steps[count - 1].any:
                count -= 1
            steps[count].any = True
        elif text[i] == c"?":
            for word in range(4):
                steps[count].bytes[word] = ~<uint64_t> 0
        elif text[i] == c"[":
            i = _read_class(text, size, i + 1, &steps[count])
        else:
            i += text[i] == c"\\" and i + 1 < size
            _put(&steps[count], text[i])
        count += 1
        i += 1
    return count


cdef bint _fits(const Glob* glob, const uint8_t* key, Py_ssize_t size) noexcept nogil:
    """Whether a glob fits a whole key."""
    cdef Py_ssize_t at = 0  # of the steps
    cdef Py_ssize_t i = 0  # of the key
    cdef Py_ssize_t star = -1  # behind the last one
    cdef Py_ssize_t taken = 0  # the key up to here belongs to what stands up to the last star
    while i < size:
        if at < glob.size and glob.steps[at].any:
            at += 1
            star = at
            taken = i
            if at == glob.size:
                return True
        elif at < glob.size and _has(&glob.steps[at], key[i]):
            at += 1
            i += 1
        elif star < 0:
            return False
        else:
            taken += 1
            i = taken
            at = star
    while at < glob.size and glob.steps[at].any:
        at += 1
    return at == glob.size


@cython.final
cdef class Patterns:
    def __cinit__(self, patterns=()):
        cdef list regexes = [each for each in patterns if (<bytes> each).startswith(REGEX)]
        cdef list globs = [
            each for each in patterns if each not in regexes and any(byte in SPECIAL for byte in <bytes> each)
        ]
        self.prefixes = Prefixes(set(patterns) - set(globs) - set(regexes))
        self._build_globs(globs)
        self.search = _searching([(<bytes> each)[len(REGEX):] for each in regexes]) if regexes else None

    def __dealloc__(self):
        PyMem_Free(self.globs)
        PyMem_Free(self.steps)

    cdef int _build_globs(self, list globs) except -1:
        cdef Step* steps
        cdef Glob* glob
        cdef bytes text
        self.glob_count = len(globs)
        self.globs = <Glob*> PyMem_Calloc(self.glob_count + 1, sizeof(Glob))
        self.steps = steps = <Step*> PyMem_Calloc(sum(map(len, globs)) + 1, sizeof(Step))
        if self.globs == NULL or steps == NULL:
            raise MemoryError
        for number, text in enumerate(globs):
            glob = &self.globs[<Py_ssize_t> number]
            glob.steps = steps
            glob.size = _read_glob(<const uint8_t*> PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), steps)
            steps += glob.size
        return 0

    cdef bint match(self, const uint8_t* key, Py_ssize_t size) noexcept nogil:
        """Whether a prefix or a glob fits."""
        cdef Py_ssize_t number
        if self.prefixes.longest(key, size) >= 0:
            return True
        for number in range(self.glob_count):
            if _fits(&self.globs[number], key, size):
                return True
        return False

    cdef bint fits(self, const uint8_t* key, Py_ssize_t size) except -1:
        """Whether one of them fits."""
        if self.match(key, size):
            return True
        return self.search is not None and self.search(PyBytes_FromStringAndSize(<const char*> key, size)) is not None

    cdef Py_ssize_t count(self) noexcept:
        return self.prefixes.count + self.glob_count + (self.search is not None)

    def matches(self, bytes key not None):
        return self.fits(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


def _searching(list patterns):
    """What looks for any of these regular expressions in a name: RE2's search, which no key makes expensive.

    Each byte is a letter (Latin-1), a dot takes every one of them, and nothing is written to standard error.
    """
    try:
        import re2
    except ImportError:
        raise ConfigError(
            "a pattern is a regular expression (re:), and the library that reads them is not installed",
            hint="pip install 'portd[regex]', or write a prefix or a glob",
        ) from None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.dot_nl = True
    for pattern in patterns:
        try:
            re2.compile(pattern, options)
        except re2.error as error:
            reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
            raise ConfigError(
                f"the regular expression {pattern.decode('utf-8', 'replace')!r} cannot be read: {reason}",
                hint="it is written as RE2 has it: github.com/google/re2/wiki/Syntax",
            ) from None
    try:
        return re2.compile(b"|".join([b"(?:" + _closed(each) + b")" for each in patterns]), options).search
    except re2.error:
        raise ConfigError(
            f"{len(patterns)} regular expressions are too large together", hint="write some of them as prefixes or globs"
        ) from None


cdef bytes _closed(bytes pattern):
    """A pattern whose last quotation (``\\Q`` to ``\\E``) ends where it does: standing alone, it needs no end."""
    cdef bytes rest = pattern
    while b"\\" in rest:
        rest = rest.partition(b"\\")[2]
        if rest[:1] == b"Q":
            _, end, rest = rest.partition(b"\\E")
            if not end:
                return pattern + b"\\E"
        else:
            rest = rest[1:]
    return pattern


@cython.final
cdef class Rules:
    def __cinit__(
        self, taken=(), left=(), *, types=None, databases=None, without=(), slots=None, min_bytes=0, max_bytes=None,
        min_ttl_ms=None, max_ttl_ms=None,
    ):
        wanted = set(TYPES if types is None else types)
        unknown = wanted.difference(TYPES)
        if unknown:
            raise ValueError(f"no such type: {', '.join(sorted(unknown))}")
        for name, number in NAMES:
            self.collections[<int> number] = name in wanted
        self.typed = len(wanted) < len(TYPES)
        self.included = Patterns(taken)
        self.excluded = Patterns(left)
        self.all = not taken
        self.databases = None if databases is None else frozenset(databases)
        self.without = frozenset(without)
        self.slots = None if slots is None else bytearray(16384)
        for first, last in slots or ():
            self.slots[first:last + 1] = b"\1" * (last + 1 - first)
        self.min_bytes = min_bytes
        self.max_bytes = <uint64_t>-1 if max_bytes is None else max_bytes
        self.sized = min_bytes > 0 or max_bytes is not None
        self.min_ttl_ms = -1 if min_ttl_ms is None else min_ttl_ms
        self.max_ttl_ms = -1 if max_ttl_ms is None else max_ttl_ms

    @property
    def of_names(self):
        return not self.all or self.slots is not None or self.excluded.count() > 0

    @property
    def of_databases(self):
        return self.databases is not None or len(self.without) > 0

    @property
    def of_values(self):
        return bool(self.typed or self.sized or self.min_ttl_ms >= 0 or self.max_ttl_ms >= 0)

    @property
    def whole_databases(self):
        return bool(self.all and self.excluded.count() == 0 and self.slots is None and not self.of_values)

    cdef bint take_name(self, const uint8_t* key, Py_ssize_t size) except -1:
        return (self.all or self.included.fits(key, size)) and not self.excluded.fits(key, size)

    cdef bint take_slot(self, const uint8_t* key, Py_ssize_t size) except -1:
        return self.slots is None or self.slots[slot_of(key, size)] != 0

    cdef bint take_database(self, int db) except -1:
        """Whether a database of the source is taken."""
        return (self.databases is None or db in self.databases) and db not in self.without

    cdef bint take(self, const uint8_t* key, Py_ssize_t size) except -1:
        """Whether a name is taken, in a database that is."""
        return self.take_name(key, size) and self.take_slot(key, size)

    cdef int judge(self, Key* key, bint database, int64_t now_ms) except -1:
        """Why a key of a snapshot is left out, 0 when it is not; what needs its size is for `fits`.

        Args:
            database: whether that is taken.
        """
        if not database:
            return R_DATABASE
        if not self.take_name(<const uint8_t*> key.name, key.size):
            return R_KEY
        if not self.take_slot(<const uint8_t*> key.name, key.size):
            return R_SLOT
        if self.typed and not self.collections[layout_of(key.encoding).collection]:
            return R_TYPE
        if self.min_ttl_ms >= 0 and key.expire_ms >= 0 and key.expire_ms - now_ms < self.min_ttl_ms:
            return R_TTL
        if self.max_ttl_ms >= 0 and (key.expire_ms < 0 or key.expire_ms - now_ms > self.max_ttl_ms):
            return R_TTL
        return R_TAKEN

    cdef bint fits(self, uint64_t size) noexcept nogil:
        """Whether a value of a size is wanted; 0: one that is not known, for it is larger than a chunk."""
        if size == 0:
            size = <uint64_t>-1
        return self.min_bytes <= size and (self.max_bytes == <uint64_t>-1 or size <= self.max_bytes)

    def takes(self, bytes key not None, int db=0):
        return self.take_database(db) and self.take(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def takes_database(self, int db):
        return self.take_database(db)
