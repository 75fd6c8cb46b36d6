# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The decoder's window: bounded memory in front of the snapshot's bytes, and the strings read from it.

Base of the classes that decode values. It also holds what all of them share: where they are, and who is told.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memmove

from portd.errors import DecodeError, UnsupportedRdb

from portd.kernel.containers cimport little_signed
from portd.kernel.crc64 cimport crc64_update
from portd.kernel.encodings cimport E_NONE, layout_of
from portd.kernel.handler cimport F_LZF_PARTS, F_RAW_PARTS, F_WHOLE, Item
from portd.kernel.lzf cimport lzf_whole
from portd.kernel.reader cimport Cursor, NOT_SPECIAL, R_BAD, R_LARGE, R_MORE, R_OK, read_number, read_string_head
from portd.kernel.writer cimport portd_format_i64


cdef class Window:
    def __cinit__(self, *_, Py_ssize_t chunk_bytes=DEFAULT_CHUNK, **__):
        self.chunk = chunk_bytes
        self.capacity = 2 * chunk_bytes + READ_AHEAD
        self.buffer = <unsigned char*>PyMem_Malloc(self.capacity)
        if self.buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        PyMem_Free(self.buffer)
        for i in range(ITEMS):
            PyMem_Free(self.scratch[i])

    cdef Py_ssize_t take_in(self, const unsigned char* data, Py_ssize_t size) noexcept:
        """Copies as many bytes as fit behind what is there; returns how many."""
        if self.capacity - self.stop < size and self.start:
            self._checksum()
            memmove(self.buffer, self.buffer + self.start, self.stop - self.start)
            self.base += self.start
            self.stop -= self.start
            self.summed = self.start = 0
        size = min(size, self.capacity - self.stop)
        memcpy(self.buffer + self.stop, data, size)
        self.stop += size
        return size

    cdef void _checksum(self) noexcept:
        self.crc = crc64_update(self.crc, self.buffer + self.summed, self.start - self.summed)
        self.summed = self.start

    cdef int _end_value(self) except -1:
        """The value in progress was told to its end; the decoder overrides this."""
        return 0

    # -- errors ----------------------------------------------------------------------------------------------------------

    cdef dict _where(self):
        inside = self.key.encoding != E_NONE and self.state not in (ST_MAGIC, ST_CHECKSUM, ST_END)
        return {
            "offset": self.base + self.start,
            "db": self.db,
            "key": self.key.name[:self.key.size] if inside and self.key.name != NULL else None,
            "type": layout_of(self.key.encoding).name.decode() if inside else None,
        }

    cdef int _fail(self, str message, object error=DecodeError) except -1:
        hint = None if error is not DecodeError else (
            "the snapshot is corrupt or this build misreads it; nothing behind this byte was applied"
        )
        raise error(message, hint=hint, **self._where())

    cdef int _unsupported(self, str message) except -1:
        return self._fail(message, UnsupportedRdb)

    # -- strings ---------------------------------------------------------------------------------------------------------

    cdef int _room(self, int i, Py_ssize_t size) except -1:
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

    cdef int _item(self, Cursor* c, int i) except -2:
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
            return self._packed_item(c, begin, item, packed, i)
        if c.end - c.p < <Py_ssize_t>item.n:
            c.p = begin
            return R_MORE
        item.p = <unsigned char*>self.digits[i]
        item.form = F_WHOLE
        special = <int>item.n
        item.n = portd_format_i64(self.digits[i], little_signed(c.p, special))
        c.p += special
        return R_OK

    cdef int _packed_item(self, Cursor* c, const unsigned char* begin, Item* item, uint64_t packed, int i) except -2:
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
        self._room(i, item.n)
        if lzf_whole(c.p, packed, self.scratch[i], item.n):
            return self._fail("corrupt LZF string")
        item.p = self.scratch[i]
        item.form = F_WHOLE
        c.p += packed
        return R_OK

    cdef int _number(self, Cursor* c, uint64_t* value) except -2:
        cdef int r = read_number(c, value)
        return self._fail("bad length") if r == R_BAD else r
