# Lengths and strings of the snapshot format (rdb.c:rdbLoadLenByRef, rdbGenericLoadStringObject), read from memory
# that may end anywhere.

from libc.stdint cimport uint64_t

from portd.kernel.containers cimport be32, be64


cdef struct Cursor:
    const unsigned char* p
    const unsigned char* end


cdef enum Result:
    R_BAD = -1
    R_MORE = 0              # cut: nothing was consumed
    R_OK = 1
    R_LARGE = 2             # longer than may be held
    R_END = 3               # the container ends here


cdef enum:
    NOT_SPECIAL = -1


cdef inline int read_length(Cursor* c, uint64_t* value, int* special) noexcept nogil:
    """A length, or (*special* >= 0) the number of a string encoding."""
    cdef int b
    if c.p >= c.end:
        return R_MORE
    b = c.p[0]
    special[0] = NOT_SPECIAL
    if b < 0x40:
        value[0] = b
        c.p += 1
        return R_OK
    if b < 0x80:
        if c.end - c.p < 2:
            return R_MORE
        value[0] = ((b & 0x3F) << 8) | c.p[1]
        c.p += 2
        return R_OK
    if b == 0x80:
        if c.end - c.p < 5:
            return R_MORE
        value[0] = be32(c.p + 1)
        c.p += 5
        return R_OK
    if b == 0x81:
        if c.end - c.p < 9:
            return R_MORE
        value[0] = be64(c.p + 1)
        c.p += 9
        return R_OK
    if b < 0xC0:
        return R_BAD
    special[0] = b & 0x3F
    value[0] = 0
    c.p += 1
    return R_OK


cdef inline int read_number(Cursor* c, uint64_t* value) noexcept nogil:
    """A length where no string encoding may stand."""
    cdef int special = NOT_SPECIAL
    cdef const unsigned char* start = c.p
    cdef int r = read_length(c, value, &special)
    if r == R_OK and special >= 0:
        c.p = start
        return R_BAD
    return r


cdef inline int read_string_head(Cursor* c, uint64_t* plain, uint64_t* packed, int* special) noexcept nogil:
    """What stands before the bytes of a string.

    ``special`` is NOT_SPECIAL for plain bytes, 0 to 2 for an integer of 1, 2 or 4 bytes (*plain*: its width), 3 for LZF
    (*packed* bytes follow and become *plain*).
    """
    cdef const unsigned char* start = c.p
    cdef int r = read_length(c, plain, special)
    packed[0] = 0
    if r != R_OK or special[0] == NOT_SPECIAL:
        return r
    if special[0] <= 2:
        plain[0] = 1 << special[0]
        return R_OK
    if special[0] != 3:
        c.p = start
        return R_BAD
    r = read_number(c, packed)
    if r == R_OK:
        r = read_number(c, plain)
    if r != R_OK:
        c.p = start
    return r


cdef inline int skip_string(Cursor* c, uint64_t limit, uint64_t* plain) noexcept nogil:
    """Steps over a string; R_LARGE when its stored or plain size is above *limit*."""
    cdef const unsigned char* start = c.p
    cdef uint64_t packed = 0
    cdef uint64_t size
    cdef int special = NOT_SPECIAL
    cdef int r = read_string_head(c, plain, &packed, &special)
    if r != R_OK:
        return r
    size = packed if special == 3 else plain[0]
    if size > limit or plain[0] > limit:
        c.p = start
        return R_LARGE
    if <uint64_t>(c.end - c.p) < size:
        c.p = start
        return R_MORE
    c.p += size
    return R_OK
