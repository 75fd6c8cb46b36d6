# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Finds commands inside RESP bytes that were sent: their names, keys, extents and databases.

The bytes are walked once, however many commands are wanted; objects are made of those alone. Where the first key of a
command stands ``keyspecs.pyx`` knows; of one that nobody knows the first argument is taken for it.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from portd.kernel.keypositions cimport Layout, first_key
from portd.kernel.keyspecs cimport known
from portd.kernel.resp cimport LINE_CUT, LINE_READ, read_length, read_number


cdef enum:
    FIRST_WORDS = 2  # arguments whose places are kept, the name included

cdef struct Span:  # of an argument
    const uint8_t* start
    Py_ssize_t size


cdef struct Walk:  # the command that was read last
    const uint8_t* start
    const uint8_t* next  # behind it
    const uint8_t* end  # of the bytes
    Span words[FIRST_WORDS]
    int64_t count  # arguments announced, the name included
    int64_t there  # arguments that are there whole


@cython.final
cdef class Command:
    cdef readonly bytes name
    cdef readonly bytes key
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t end
    cdef readonly Py_ssize_t keys
    cdef readonly int64_t db

    def __init__(self):
        raise TypeError("commands are found, not made")

    def __repr__(self):
        return f"Command({self.title}, bytes {self.start} to {self.end}, db={self.db})"

    @property
    def title(self):
        return self.name.decode("ascii", "backslashreplace")


def split(bytes data not None):
    cdef Walk walk
    cdef list found = []
    cdef int64_t db = -1
    _begin(&walk, data)
    while _read(&walk):
        found.append(_describe(&walk, data, db))
        db = _database(&walk, db)
    return found


def head(bytes data not None):
    cdef Walk walk
    _begin(&walk, data)
    _read(&walk)
    return _describe(&walk, data, -1)


def find(bytes data not None, list numbers not None, int64_t db=-1):
    cdef Walk walk
    cdef list found = []
    cdef int64_t number = 0
    cdef int64_t wanted
    _begin(&walk, data)
    for wanted in numbers:
        if wanted < number - 1 or wanted < 0:
            raise ValueError("numbers must ascend")
        while number <= wanted:
            if number > 0:
                db = _database(&walk, db)
            if not _read(&walk):
                raise IndexError(number)
            number += 1
        found.append(_describe(&walk, data, db))
    return found


def of_keys(bytes data not None, keys not None):
    cdef Walk walk
    cdef list parts = []
    cdef const uint8_t* run = NULL
    cdef int64_t count = 0
    _begin(&walk, data)
    while _read(&walk):
        if _key(&walk, known.layout_of(_name(&walk))) in keys:
            count += 1
            if run == NULL:
                run = walk.start
        elif run != NULL:
            parts.append(PyBytes_FromStringAndSize(<const char*> run, walk.start - run))
            run = NULL
    if run != NULL:
        parts.append(PyBytes_FromStringAndSize(<const char*> run, walk.next - run))
    return b"".join(parts), count


def named(bytes data not None, names not None):
    cdef Walk walk
    cdef list parts = []
    cdef list numbers = []
    cdef list found = []
    cdef bytes name
    cdef int64_t number = 0
    _begin(&walk, data)
    while _read(&walk):
        name = _name(&walk)
        if name in names:
            numbers.append(number)
            found.append(name)
            parts.append(PyBytes_FromStringAndSize(<const char*> walk.start, walk.next - walk.start))
        number += 1
    return b"".join(parts), numbers, found


def without(bytes data not None, bytes offsets not None, list numbers not None):
    cdef Walk walk
    cdef list parts = []
    cdef bytearray left = bytearray(PyBytes_GET_SIZE(offsets))
    cdef const uint64_t* of = <const uint64_t*> PyBytes_AS_STRING(offsets)
    cdef uint64_t* kept_of = <uint64_t*> PyByteArray_AS_STRING(left)
    cdef Py_ssize_t total = PyBytes_GET_SIZE(offsets) // <Py_ssize_t> sizeof(uint64_t)
    cdef Py_ssize_t kept_count = 0
    cdef Py_ssize_t at = 0  # of the numbers
    cdef Py_ssize_t count = len(numbers)
    cdef Py_ssize_t number
    cdef uint64_t gone = 0  # offset of the last one that was named
    cdef bint any_gone = False
    cdef Py_ssize_t wanted = numbers[0] if count else total  # the next number
    cdef const uint8_t* run  # bytes that stay, not yet in the parts
    if count and not 0 <= <Py_ssize_t> min(numbers) <= <Py_ssize_t> max(numbers) < total:
        raise IndexError(total)
    _begin(&walk, data)
    run = walk.next
    for number in range(total):
        if not _read(&walk):
            raise IndexError(number)
        while at < count and wanted < number:
            at += 1
            wanted = numbers[at] if at < count else total
        if wanted < total and of[wanted] == of[number]:  # it, or one before it that belongs to it
            gone, any_gone = of[number], True
        if any_gone and of[number] == gone:
            if walk.start > run:
                parts.append(PyBytes_FromStringAndSize(<const char*> run, walk.start - run))
            run = walk.next
        else:
            kept_of[kept_count] = of[number]
            kept_count += 1
    parts.append(PyBytes_FromStringAndSize(<const char*> run, walk.end - run))
    return b"".join(parts), bytes(left[: kept_count * <Py_ssize_t> sizeof(uint64_t)])


def singles(bytes data not None, Command command not None):
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data) + command.start
    cdef const uint8_t* end = <const uint8_t*> PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)
    cdef const uint8_t* start
    cdef Span span
    cdef uint64_t count = 0
    cdef uint64_t number
    cdef list parts = []
    if not 0 <= command.start < command.end <= PyBytes_GET_SIZE(data) or not _length(&p, end, c"*", &count):
        raise ValueError("not a RESP request")
    if not _argument(&p, end, &span):
        raise ValueError("not a RESP request")
    for number in range((count - 1) // 2):
        start = p
        if not _argument(&p, end, &span) or not _argument(&p, end, &span):
            raise ValueError("not a RESP request")
        parts.append(b"*3\r\n$3\r\nSET\r\n")
        parts.append(PyBytes_FromStringAndSize(<const char*> start, p - start))
    return b"".join(parts), len(parts) // 2


# ----------------------------------------------------------------------------------------------------------- reading

cdef void _begin(Walk* walk, bytes data) noexcept:
    memset(walk, 0, sizeof(Walk))
    walk.next = <const uint8_t*> PyBytes_AS_STRING(data)
    walk.start = walk.next
    walk.end = walk.next + PyBytes_GET_SIZE(data)


cdef bint _read(Walk* walk) except -1:
    """Reads the next command; False when it is not there whole: it has the words that are."""
    cdef const uint8_t* p = walk.next
    cdef uint64_t count = 0
    cdef Span span
    walk.start = p
    walk.count = walk.there = 0
    if not _length(&p, walk.end, c"*", &count):
        return False
    if count > INT32_MAX:
        raise ValueError("not a RESP request")
    walk.count = <int64_t> count
    while walk.there < walk.count:
        if not _argument(&p, walk.end, &span):
            return False
        if walk.there < FIRST_WORDS:
            walk.words[walk.there] = span
        walk.there += 1
    walk.next = p
    return True


cdef bint _length(const uint8_t** cursor, const uint8_t* end, uint8_t mark, uint64_t* value) except -1:
    """Reads ``<mark><digits>CRLF`` and moves behind it; False when it is cut. There is a zero byte behind *end*."""
    cdef const uint8_t* p = cursor[0]
    cdef int line
    if p == end:
        return False
    if p[0] != mark:
        raise ValueError("not a RESP request")
    p += 1
    line = read_length(&p, end, value)
    if line == LINE_CUT:
        return False
    if line != LINE_READ:
        raise ValueError("not a RESP request")
    cursor[0] = p
    return True


cdef bint _argument(const uint8_t** cursor, const uint8_t* end, Span* span) except -1:
    """Reads a bulk string and moves behind it; False when it is cut."""
    cdef const uint8_t* p = cursor[0]
    cdef uint64_t size = 0
    if not _length(&p, end, c"$", &size) or end - p < 2 or <uint64_t> (end - p - 2) < size:
        return False
    span.start = p
    span.size = <Py_ssize_t> size
    cursor[0] = p + size + 2
    return True


# ----------------------------------------------------------------------------------------------------- what it is

cdef bytes _name(Walk* walk):
    """Upper case; b"" when it is not there."""
    return _word(walk, 0).upper()


cdef bytes _key(Walk* walk, const Layout* layout):
    """The first key; b"" when there is none, or it is not there."""
    cdef const uint8_t* key
    cdef Py_ssize_t size = 0
    if walk.there == 0:
        return b""
    key = first_key(walk.words[0].start + walk.words[0].size + 2, walk.end, layout, walk.count, &size)
    return PyBytes_FromStringAndSize(<const char*> key, size) if key != NULL else b""


cdef bytes _word(Walk* walk, int64_t index):
    """One of the first arguments; b"" when it is not there."""
    if index >= walk.there:
        return b""
    return PyBytes_FromStringAndSize(<const char*> walk.words[index].start, walk.words[index].size)


cdef int64_t _database(Walk* walk, int64_t db) except? -2:
    """The database in effect behind the command that was read last."""
    cdef int64_t selected = 0
    if walk.count != 2 or walk.words[0].size != 6 or _name(walk) != b"SELECT":
        return db
    if not read_number(walk.words[1].start, walk.words[1].size, INT32_MAX, &selected) or selected < 0:
        return db
    return selected


cdef Command _describe(Walk* walk, bytes data, int64_t db):
    """The command that was read last."""
    cdef Command command = Command.__new__(Command)
    cdef const uint8_t* first = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef bytes name = _name(walk)
    cdef const Layout* layout = known.layout_of(name)
    command.name = name
    command.key = _key(walk, layout)
    command.start = walk.start - first
    command.end = walk.next - first
    command.db = _database(walk, db)
    if layout.pairs:
        command.keys = walk.count // 2
    else:
        command.keys = 1 if command.key or (layout.single and layout.specs[0].begin < walk.count) else 0
    return command
