# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Which keys the commands of a stream may change.

Of a command that nobody knows the name is kept; one that takes a key elsewhere (MOVE, COPY with DB) names it in both databases.
Too many names are no harm to who reads both ends again, one too few is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.set cimport PySet_Add, PySet_Size
from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.errors import InternalError
from portd.kernel.keypositions cimport NOT_KEY, OW, RM, RW, Found, Layout, find_keys, use_of
from portd.kernel.keyspecs cimport K_CHANNEL, K_DATABASE, K_NONE, K_UNKNOWN, KeySpecs, known
from portd.kernel.resp cimport LINE_READ, read_length, read_number

cdef enum:
    LONGEST_NAME = 32  # names above this are looked up each time
    DB_BYTES = 4
    MOST_UNKNOWN = 20  # names of commands

cdef enum Sort:  # of a command
    S_KEYS  # its keys say what it concerns
    S_REMOVAL  # likewise, and it only removes
    S_ELSEWHERE  # one of its keys may be in another database: which, is among the arguments
    S_SELECT
    S_ALL
    S_FUNCTION
    S_NONE  # changes no key
    S_UNKNOWN

cdef frozenset REMOVALS = frozenset((b"DEL", b"UNLINK", b"HDEL"))
cdef frozenset ELSEWHERE = frozenset((b"MOVE", b"COPY"))
cdef frozenset ALL = frozenset((b"FLUSHALL", b"FLUSHDB", b"SWAPDB"))


@cython.final
cdef class Touched:
    cdef KeySpecs keys
    cdef set names
    cdef Py_ssize_t most
    cdef bint inside  # what comes next belongs to a command of which a part was there
    cdef Sort sort  # of the command that was looked at last
    cdef const Layout* layout  # likewise
    cdef uint8_t[32] last
    cdef Py_ssize_t last_size
    cdef readonly int64_t writes
    cdef readonly int64_t removals
    cdef readonly bint everything
    cdef readonly bint functions
    cdef readonly bint lost
    cdef readonly set unknown

    def __cinit__(self, KeySpecs keys=None, Py_ssize_t most=1_000_000):
        self.keys = known if keys is None else keys
        self.most = most
        self.names = set()
        self.unknown = set()
        self.last_size = -1

    def note(self, bytes data not None, int64_t db, bint part=False):
        cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
        cdef bint inside = self.inside
        self.inside = part
        if inside:
            return db
        while p < end:
            p = self._command(p, end, &db, part)
        return db

    @property
    def count(self):
        return PySet_Size(self.names)

    def take(self):
        names, self.names = self.names, set()
        return names

    cdef const uint8_t* _command(self, const uint8_t* p, const uint8_t* end, int64_t* db, bint part) except NULL:
        """One command, or the first part of one; where the next begins."""
        cdef uint64_t argc = 0
        cdef uint64_t size = 0
        cdef const uint8_t* name
        cdef const uint8_t* header
        cdef Found found
        if p[0] != c"*":
            raise InternalError("a piece of the stream does not begin with a command")
        p += 1
        if read_length(&p, end, &argc) != LINE_READ or not 0 < argc <= INT32_MAX or p >= end:
            raise InternalError("a command of the stream has no length")
        p += 1
        if read_length(&p, end, &size) != LINE_READ or <uint64_t> (end - p) < size + 2:
            raise InternalError("a command of the stream has no name")
        name, header = p, p + size + 2
        if <Py_ssize_t> size != self.last_size or memcmp(self.last, name, size) != 0:
            self._look_up(name, <Py_ssize_t> size)
        if self.sort == S_SELECT:
            return self._numbers(header, end, <int64_t> argc, db)
        if self.sort == S_NONE:
            return self._behind(header, end, <int64_t> argc, part)
        self.writes += 1
        if self.sort == S_REMOVAL:
            self.removals += 1
        elif self.sort == S_ALL:
            self.everything = True
        elif self.sort == S_FUNCTION:
            self.functions = True
        elif self.sort == S_UNKNOWN:
            self._name_unknown(name, <Py_ssize_t> size)
        if self.sort in (S_ALL, S_FUNCTION, S_UNKNOWN):
            return self._behind(header, end, <int64_t> argc, part)
        find_keys(header, end, self.layout, <int64_t> argc, &found)
        if not found.known:
            self._name_unknown(name, <Py_ssize_t> size)
        elif not found.fits:
            self.lost = True
        return self._collect(header, end, <int64_t> argc, &found, db[0], part)

    cdef const uint8_t* _collect(
        self, const uint8_t* header, const uint8_t* end, int64_t argc, Found* found, int64_t db, bint part
    ) except NULL:
        """The keys that a command writes; where the next one begins."""
        cdef int64_t index
        cdef int64_t other = -1
        cdef uint64_t size = 0
        cdef const uint8_t* p = header
        cdef const uint8_t* text
        cdef int use
        cdef list elsewhere = [] if self.sort == S_ELSEWHERE else None
        for index in range(1, argc):
            use = use_of(found, index)
            if p >= end or p[0] != c"$":
                return self._cut(found, index, argc, end, part)
            text = p + 1
            if read_length(&text, end, &size) != LINE_READ or <uint64_t> (end - text) < size:
                return self._cut(found, index, argc, end, part)
            if use & (RW | OW | RM) and not use & NOT_KEY:
                self._add(text, <Py_ssize_t> size, db)
                if elsewhere is not None:
                    elsewhere.append(PyBytes_FromStringAndSize(<const char*> text, <Py_ssize_t> size))
            elif elsewhere is not None and not use and size <= 10:
                read_number(text, <Py_ssize_t> size, INT32_MAX, &other)
            p = text + size + 2
        if elsewhere is not None and other >= 0:
            for key in elsewhere:
                self._add(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), other)
        if p > end:  # its last line end comes with the next part
            return end
        return p

    cdef const uint8_t* _cut(
        self, Found* found, int64_t index, int64_t argc, const uint8_t* end, bint part
    ) except NULL:
        """The argument at *index* of a command is not at hand to its end: whether a key is lost with it."""
        if not part:
            raise InternalError("a command of the stream is not whole")
        while index < argc and not self.lost:
            self.lost = use_of(found, index) & (RW | OW | RM) != 0
            index += 1
        return end

    cdef const uint8_t* _behind(self, const uint8_t* header, const uint8_t* end, int64_t argc, bint part) except NULL:
        """Where the next command begins."""
        cdef int64_t index
        cdef uint64_t size = 0
        cdef const uint8_t* p = header
        for index in range(1, argc):
            if p >= end or p[0] != c"$":
                break
            p += 1
            if read_length(&p, end, &size) != LINE_READ or <uint64_t> (end - p) < size + 2:
                break
            p += size + 2
        else:
            return p
        if not part:
            raise InternalError("a command of the stream is not whole")
        return end

    cdef const uint8_t* _numbers(self, const uint8_t* header, const uint8_t* end, int64_t argc, int64_t* db) except NULL:
        """A SELECT; where the next command begins."""
        cdef uint64_t size = 0
        cdef const uint8_t* text = header + 1
        if argc > 1 and header < end and read_length(&text, end, &size) == LINE_READ and <uint64_t> (end - text) >= size:
            read_number(text, <Py_ssize_t> size, INT32_MAX, db)
        return self._behind(header, end, argc, False)

    cdef int _add(self, const uint8_t* text, Py_ssize_t size, int64_t db) except -1:
        cdef uint32_t number = <uint32_t> db
        cdef bytes name
        if PySet_Size(self.names) >= self.most:
            self.lost = True
            return 0
        name = PyBytes_FromStringAndSize(NULL, DB_BYTES + size)
        memcpy(PyBytes_AS_STRING(name), &number, DB_BYTES)
        memcpy(PyBytes_AS_STRING(name) + DB_BYTES, text, size)
        PySet_Add(self.names, name)
        return 0

    cdef int _name_unknown(self, const uint8_t* name, Py_ssize_t size) except -1:
        if PySet_Size(self.unknown) < MOST_UNKNOWN:
            self.unknown.add(PyBytes_FromStringAndSize(<const char*> name, min(size, <Py_ssize_t> LONGEST_NAME)).upper())
        return 0

    cdef int _look_up(self, const uint8_t* name, Py_ssize_t size) except -1:
        """Notes what is known of a command of this name."""
        cdef bytes word = PyBytes_FromStringAndSize(<const char*> name, size).upper()
        cdef object number = self.keys.numbers.get(word)
        self.layout = self.keys.layout_of(word)
        if word == b"SELECT":
            self.sort = S_SELECT
        elif word in ALL:
            self.sort = S_ALL
        elif word == b"FUNCTION":
            self.sort = S_FUNCTION
        elif word in REMOVALS:
            self.sort = S_REMOVAL
        elif word in ELSEWHERE:
            self.sort = S_ELSEWHERE
        elif number is None or number == K_UNKNOWN:
            self.sort = S_UNKNOWN
        elif number == K_NONE or number == K_CHANNEL or number == K_DATABASE:
            self.sort = S_NONE
        else:
            self.sort = S_KEYS
        self.last_size = size if size <= LONGEST_NAME else -1
        if self.last_size >= 0:
            memcpy(self.last, name, size)
        return 0
