# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Streams in an older form: RESTORE keeps what no command carries, such as pending entries whose message was deleted.

A newer form only adds numbers: version 2 the counters, 3 the time a consumer was last active, 4 idempotent producers. Without them
the bytes are what an older server would have written. Version 5 has pending entries without a consumer, which no older
server loads; it is not rewritten.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from portd.kernel.reader cimport Cursor, R_OK, read_number, skip_string


cdef struct Copy:
    Cursor c
    const unsigned char* mark       # copied up to here
    unsigned char* out


cdef inline void copy(Copy* to) noexcept nogil:
    cdef Py_ssize_t n = to.c.p - to.mark
    memcpy(to.out, to.mark, n)
    to.out += n
    to.mark = to.c.p


cdef inline void leave_out(Copy* to) noexcept nogil:
    to.mark = to.c.p


cdef inline bint numbers(Copy* to, int n) noexcept nogil:
    cdef uint64_t ignored = 0
    while n:
        if read_number(&to.c, &ignored) != R_OK:
            return False
        n -= 1
    return True


cdef inline bint step(Copy* to, uint64_t n) noexcept nogil:
    if <uint64_t>(to.c.end - to.c.p) < n:
        return False
    to.c.p += n
    return True


cdef inline bint text(Copy* to) noexcept nogil:
    cdef uint64_t plain = 0
    return skip_string(&to.c, <uint64_t>1 << 62, &plain) == R_OK


cdef bint rewrite_group(Copy* to, int version, int wanted, Lost* lost) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint64_t consumers = 0
    if not text(to) or not numbers(to, 2):              # name, last delivered id
        return False
    copy(to)
    if version >= 2 and not numbers(to, 1):             # entries read
        return False
    if wanted < 2:
        leave_out(to)
    if read_number(&to.c, &n) != R_OK:
        return False
    while n:                                            # pending: id, time, deliveries
        if not step(to, 24) or not numbers(to, 1):
            return False
        n -= 1
    if read_number(&to.c, &consumers) != R_OK:
        return False
    while consumers:
        if not text(to) or not step(to, 8):             # name, last seen
            return False
        copy(to)
        if version >= 3:
            if not step(to, 8):                         # last active
                return False
            if wanted < 3:
                leave_out(to)
                lost.times += 1
        if read_number(&to.c, &n) != R_OK or n > <uint64_t>(to.c.end - to.c.p) // 16 or not step(to, 16 * n):
            return False
        consumers -= 1
    copy(to)
    return True


cdef Py_ssize_t rewrite_stream(
    const unsigned char* value, Py_ssize_t size, int version, int wanted, unsigned char* out, Lost* lost
) noexcept nogil:
    """Writes a whole value of *version* (2 to 4) as *wanted* (1 to 3, lower) at *out*, which has room for *size* bytes.

    Returns:
        Bytes written; -1 when the value is not what it should be.
    """
    cdef Copy to
    cdef uint64_t n = 0
    to.c.p = to.mark = value
    to.c.end = value + size
    to.out = out
    lost.times = lost.producers = 0
    if read_number(&to.c, &n) != R_OK:
        return -1
    while n:                                            # nodes: first id, listpack
        if not text(&to) or not text(&to):
            return -1
        n -= 1
    if not numbers(&to, 3):                             # length, last id
        return -1
    copy(&to)
    if not numbers(&to, 5):                             # first id, highest deleted id, entries added
        return -1
    if wanted < 2:
        leave_out(&to)
    if read_number(&to.c, &n) != R_OK:
        return -1
    copy(&to)
    while n:
        if not rewrite_group(&to, version, wanted, lost):
            return -1
        n -= 1
    if version >= 4 and (not numbers(&to, 2) or read_number(&to.c, &lost.producers) != R_OK):
        return -1
    return to.out - out
