# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Measures a value without looking into it, so that RESTORE can carry its bytes as they are.

A measure that runs out of bytes continues where it stopped; it ends early once the value is above the limits.
"""

from libc.stdint cimport uint64_t

from portd.kernel.encodings cimport (
    Layout, S_ARRAY, S_BLOB, S_ITEMS, S_MODULE, S_NODES, S_NUMBER, S_STREAM, S_STRING, layout_of, stream_version,
)
from portd.kernel.reader cimport Cursor, R_BAD, R_LARGE, R_MORE, R_OK, read_number, skip_string


cdef inline int skip_bytes(Cursor* c, Py_ssize_t n) noexcept nogil:
    if c.end - c.p < n:
        return R_MORE
    c.p += n
    return R_OK


cdef inline int skip_numbers(Cursor* c, int n) noexcept nogil:
    cdef uint64_t ignored = 0
    cdef int r
    while n:
        r = read_number(c, &ignored)
        if r != R_OK:
            return r
        n -= 1
    return R_OK


cdef int skip_pattern(Cursor* c, const char* pattern, uint64_t limit, uint64_t* plain) noexcept nogil:
    cdef uint64_t size = 0
    cdef int r
    while pattern[0]:
        if pattern[0] == b"s":
            r = skip_string(c, limit, &size)
            plain[0] += size if r == R_OK else 0
        elif pattern[0] == b"l":
            r = skip_numbers(c, 1)
        elif pattern[0] == b"d":
            r = skip_bytes(c, 8)
        else:                       # z: one length byte; 253 to 255 stand for themselves
            if c.p >= c.end:
                return R_MORE
            r = skip_bytes(c, 1 if c.p[0] >= 253 else 1 + c.p[0])
        if r != R_OK:
            return r
        pattern += 1
    return R_OK


cdef int skip_module_items(Cursor* c, uint64_t limit) noexcept nogil:
    """Tagged items up to and with the closing 0 (module.c:moduleTypeNameByID and rdb.c:rdbLoadCheckModuleValue)."""
    cdef uint64_t tag = 0
    cdef uint64_t plain = 0
    cdef int r
    while True:
        r = read_number(c, &tag)
        if r != R_OK:
            return r
        if tag == 0:
            return R_OK
        if tag <= 2:
            r = skip_numbers(c, 1)
        elif tag == 3:
            r = skip_bytes(c, 4)
        elif tag == 4:
            r = skip_bytes(c, 8)
        elif tag == 5:
            r = skip_string(c, limit, &plain)
        else:
            return R_BAD
        if r != R_OK:
            return r


cdef int skip_many(Cursor* c, uint64_t n, const char* pattern, uint64_t limit) noexcept nogil:
    cdef uint64_t plain = 0
    cdef int r
    while n:
        r = skip_pattern(c, pattern, limit, &plain)
        if r != R_OK:
            return r
        n -= 1
    return R_OK


cdef int skip_ids(Cursor* c, uint64_t n, uint64_t limit) noexcept nogil:
    if n > limit // 16:
        return R_LARGE
    return skip_bytes(c, 16 * n)


cdef int skip_group(Cursor* c, int version, uint64_t limit) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint64_t consumers = 0
    cdef uint64_t plain = 0
    cdef int r = skip_string(c, limit, &plain)
    if r == R_OK:
        r = skip_numbers(c, 3 if version >= 2 else 2)
    if r == R_OK:
        r = read_number(c, &n)
    while r == R_OK and n:
        r = skip_bytes(c, 24)
        if r == R_OK:
            r = skip_numbers(c, 1)
        n -= 1
    if r == R_OK:
        r = read_number(c, &consumers)
    while r == R_OK and consumers:
        r = skip_string(c, limit, &plain)
        if r == R_OK:
            r = skip_bytes(c, 16 if version >= 3 else 8)
        if r == R_OK:
            r = read_number(c, &n)
        if r == R_OK:
            r = skip_ids(c, n, limit)
        consumers -= 1
    if r == R_OK and version >= 5:
        r = read_number(c, &n)
        if r == R_OK:
            r = skip_ids(c, n, limit)
    return r


cdef int skip_stream_tail(Cursor* c, int version, uint64_t limit) noexcept nogil:
    """All that follows the nodes of a stream (rdb.c:rdbSaveObject)."""
    cdef uint64_t groups = 0
    cdef uint64_t producers = 0
    cdef uint64_t n = 0
    cdef uint64_t plain = 0
    cdef int r = skip_numbers(c, 8 if version >= 2 else 3)
    if r == R_OK:
        r = read_number(c, &groups)
    while r == R_OK and groups:
        r = skip_group(c, version, limit)
        groups -= 1
    if r != R_OK or version < 4:
        return r
    r = skip_numbers(c, 2)
    if r == R_OK:
        r = read_number(c, &producers)
    while r == R_OK and producers:
        r = skip_string(c, limit, &plain)
        if r == R_OK:
            r = read_number(c, &n)
        if r == R_OK:
            r = skip_many(c, n, "sll", limit)
        producers -= 1
    return skip_numbers(c, 2) if r == R_OK else r


cdef int skip_array(Cursor* c, uint64_t limit) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint64_t flag = 0
    cdef uint64_t tag = 0
    cdef uint64_t plain = 0
    cdef int r = read_number(c, &n)
    if r == R_OK:
        r = read_number(c, &flag)
    if r == R_OK and flag == 1:
        r = skip_numbers(c, 1)
    while r == R_OK and n:
        r = skip_numbers(c, 1)
        if r == R_OK:
            r = read_number(c, &tag)
        if r == R_OK:
            r = skip_bytes(c, 8) if tag == 1 or tag == 2 else skip_string(c, limit, &plain)
        n -= 1
    return r


cdef int measure_count(Measure* m, Cursor* c, const Layout* layout, uint64_t max_elements) noexcept nogil:
    cdef uint64_t plain = 0
    cdef int r
    r = skip_pattern(c, layout.prefix, 0, &plain) if layout.shape == S_ITEMS else R_OK
    if r == R_OK:
        r = read_number(c, &m.left)
    if r != R_OK:
        return r
    if m.left > max_elements:
        return R_LARGE
    m.empty = m.left == 0 and layout.shape != S_STREAM
    m.stage = 1
    return R_OK


cdef int measure_value(
    Measure* m, int encoding, const unsigned char* p, Py_ssize_t available, uint64_t limit, uint64_t max_elements
) noexcept nogil:
    """R_OK: all of the value is at hand, ``m.at`` bytes; R_LARGE: it is above a limit; R_MORE: call again later."""
    cdef const Layout* layout = layout_of(encoding)
    cdef Cursor c
    cdef int r = R_OK
    cdef const char* pattern = layout.pattern
    cdef uint64_t plain
    c.p = p + m.at
    c.end = p + available
    if layout.shape in (S_ITEMS, S_NODES, S_STREAM):
        if layout.shape == S_STREAM:
            pattern = "ss"
        if m.stage == 0:
            r = measure_count(m, &c, layout, max_elements)
            if r != R_OK:
                return r
            m.at = c.p - p
        while m.left:
            plain = m.plain
            r = skip_pattern(&c, pattern, limit, &m.plain)
            if r != R_OK:
                m.plain = plain         # the element will be measured again
                # An element alone may be as large as the window: whether all of it comes does not matter any more.
                return R_LARGE if r == R_MORE and <uint64_t>available > limit else r
            m.left -= 1
            m.at = c.p - p
            if <uint64_t>m.at > limit or m.plain > limit:
                return R_LARGE
        if layout.shape == S_STREAM:
            r = skip_stream_tail(&c, stream_version(encoding), limit)
    elif layout.shape == S_STRING:
        r = skip_string(&c, limit, &m.plain)
    elif layout.shape == S_BLOB:
        r = skip_pattern(&c, layout.prefix, limit, &m.plain)
        if r == R_OK:
            r = skip_string(&c, limit, &m.plain)
    elif layout.shape == S_MODULE:
        r = skip_numbers(&c, 1)
        if r == R_OK:
            r = skip_module_items(&c, limit)
    elif layout.shape == S_ARRAY:
        r = skip_array(&c, limit)
    elif layout.shape == S_NUMBER:
        r = skip_numbers(&c, 1)
    else:
        return R_LARGE
    if r == R_MORE:
        return R_LARGE if <uint64_t>available > limit else R_MORE
    if r == R_OK:
        m.at = c.p - p
        if <uint64_t>m.at > limit:
            return R_LARGE
    return r


cdef int measure_meta(const unsigned char* p, Py_ssize_t available, uint64_t limit, Py_ssize_t* size) noexcept nogil:
    """KEY_META behind its opcode: count, then per class a 32-bit spec and module items."""
    cdef Cursor c
    cdef uint64_t n = 0
    cdef int r
    c.p = p
    c.end = p + available
    r = read_number(&c, &n)
    while r == R_OK and n:
        r = skip_bytes(&c, 4)
        if r == R_OK:
            r = skip_module_items(&c, limit)
        n -= 1
    size[0] = c.p - p
    if r == R_MORE and <uint64_t>available > limit:
        return R_LARGE
    return r
