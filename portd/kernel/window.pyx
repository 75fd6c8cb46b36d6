# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The decoder's window: bounded memory in front of the snapshot's bytes, and the strings read from it."""

from cpython.mem cimport PyMem_Realloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memmove

from portd.kernel.containers cimport little_signed
from portd.kernel.crc64 cimport crc64_update
from portd.kernel.decoder cimport Decoder
from portd.kernel.handler cimport F_LZF_PARTS, F_RAW_PARTS, F_WHOLE, Item
from portd.kernel.lzf cimport lzf_whole
from portd.kernel.reader cimport Cursor, NOT_SPECIAL, R_BAD, R_LARGE, R_MORE, R_OK, read_number, read_string_head
from portd.kernel.writer cimport portd_format_i64


cdef Py_ssize_t take_in(Decoder self, const unsigned char* data, Py_ssize_t size) noexcept:
    """Copies as many bytes as fit behind what is there; returns how many."""
    if self.capacity - self.stop < size and self.start:
        sum_window(self)
        memmove(self.buffer, self.buffer + self.start, self.stop - self.start)
        self.base += self.start
        self.stop -= self.start
        self.summed = self.start = 0
    size = min(size, self.capacity - self.stop)
    memcpy(self.buffer + self.stop, data, size)
    self.stop += size
    return size


cdef void sum_window(Decoder self) noexcept:
    self.crc = crc64_update(self.crc, self.buffer + self.summed, self.start - self.summed)
    self.summed = self.start


# -- strings ---------------------------------------------------------------------------------------------------------


cdef int _room(Decoder self, int i, Py_ssize_t size) except -1:
    """Scratch memory of at least *size* bytes for item *i*."""
    cdef unsigned char* grown
    if self.scratch_capacity[i] < size:
        size = min(max(size, 2 * self.scratch_capacity[i]), max(size, self.chunk))
        grown = <unsigned char*>PyMem_Realloc(self.scratch[i], size)
        if grown == NULL:
            raise MemoryError
        self.scratch[i] = grown
        self.scratch_capacity[i] = size
    return 0


cdef int next_item(Decoder self, Cursor* c, int i) except -2:
    """Reads a string into item *i*: R_OK whole; R_LARGE only its head, `form` says how the rest comes; R_MORE."""
    cdef const unsigned char* begin = c.p
    cdef uint64_t packed = 0
    cdef int special = NOT_SPECIAL
    cdef Item* item = &self.items[i]
    cdef int r = read_string_head(c, &item.n, &packed, &special)
    if r != R_OK:
        return self._fail("bad string length") if r == R_BAD else r
    if special == NOT_SPECIAL:
        if item.n > <uint64_t>self.chunk:
            item.form = F_RAW_PARTS
            return R_LARGE
        if <uint64_t>(c.end - c.p) < item.n:
            c.p = begin
            return R_MORE
        item.p = c.p
        item.form = F_WHOLE
        c.p += item.n
        return R_OK
    if special == 3:
        return packed_item(self, c, begin, item, packed, i)
    if c.end - c.p < <Py_ssize_t>item.n:
        c.p = begin
        return R_MORE
    item.p = <unsigned char*>self.digits[i]
    item.form = F_WHOLE
    special = <int>item.n
    item.n = portd_format_i64(self.digits[i], little_signed(c.p, special))
    c.p += special
    return R_OK


cdef int packed_item(Decoder self, Cursor* c, const unsigned char* begin, Item* item, uint64_t packed, int i) except -2:
    if packed == 0 or packed > 2 * item.n + 16:
        return self._fail(f"LZF string of {packed} bytes claims to hold {item.n}")
    if item.n // 264 > packed:          # the longest match: 3 bytes become 264
        return self._fail(f"LZF string of {packed} bytes cannot hold {item.n}")
    if item.n > <uint64_t>self.chunk or packed > <uint64_t>self.chunk:
        item.form = F_LZF_PARTS
        item.packed = packed
        return R_LARGE
    if <uint64_t>(c.end - c.p) < packed:
        c.p = begin
        return R_MORE
    _room(self, i, item.n)
    if lzf_whole(c.p, packed, self.scratch[i], item.n):
        return self._fail("corrupt LZF string")
    item.p = self.scratch[i]
    item.form = F_WHOLE
    c.p += packed
    return R_OK


cdef int next_number(Decoder self, Cursor* c, uint64_t* value) except -2:
    cdef int r = read_number(c, value)
    return self._fail("bad length") if r == R_BAD else r
