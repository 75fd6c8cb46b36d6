# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""What is too long to be whole in the window: items that go through in parts, and containers inside strings.

A container's bytes, compressed or not, pass through a window of their own, from which its cells are taken.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memmove

from portd.errors import LimitExceeded

from portd.kernel.containers cimport (
    CELL_BAD, CELL_END, CELL_MORE, CELL_OK, Cell, le32, listpack_cell, little_signed, zipmap_cell, ziplist_cell,
)
from portd.kernel.decoder cimport Decoder, PP_ENTRY, PP_ITEM, PP_STRING, ST_PARTS, end_value
from portd.kernel.encodings cimport K_INTSET, K_LISTPACK, K_NONE, K_ZIPLIST, K_ZIPMAP
from portd.kernel.handler cimport F_LZF_PARTS, F_RAW_PARTS, F_WHOLE, Item
from portd.kernel.reader cimport Cursor, NOT_SPECIAL, R_BAD, R_END, R_LARGE, R_MORE, R_OK, read_string_head
from portd.kernel.writer cimport portd_format_i64


cdef enum:
    PART_BYTES = 65536              # of a long item, told at a time


cdef inline Py_ssize_t part_bytes(Py_ssize_t available, uint64_t left) noexcept:
    return <Py_ssize_t>min(<uint64_t>min(available, <Py_ssize_t>PART_BYTES), left)


# -- parts of long items -----------------------------------------------------------------------------------------------


cdef int begin_parts(Decoder self, int purpose, Item* item, bint in_blob, int after) except -1:
    self.part_purpose = purpose
    self.part_form = F_RAW_PARTS if in_blob else item.form
    self.part_in_blob = in_blob
    self.part_size = self.part_left = item.n
    self.part_packed = item.packed
    self.part_tail = self.cell.tail if in_blob else 0
    self.after_part = after
    self.state = ST_PARTS
    if self.part_form == F_LZF_PARTS:
        self.lzf.reset()
    return R_OK


cdef int read_parts(Decoder self) except -1:
    cdef const unsigned char* p
    cdef Py_ssize_t n
    cdef int r
    while self.part_left:
        if self.out.ready:
            return R_OK
        if self.part_in_blob:
            if self.blob_start == self.blob_stop:
                r = _refill(self)
                if r != R_OK:
                    return r
            p = self.blob + self.blob_start
            n = part_bytes(self.blob_stop - self.blob_start, self.part_left)
            self.blob_start += n
        elif self.part_form == F_LZF_PARTS:
            if self.lzf.available() == 0:
                r = _unpack(self, &self.part_packed)
                if r != R_OK:
                    return r
            p = self.lzf.buffer + self.lzf.taken
            n = part_bytes(self.lzf.available(), self.part_left)
            self.lzf.taken += n
        else:
            p = self.buffer + self.start
            n = part_bytes(self.stop - self.start, self.part_left)
            if n < part_bytes(PART_BYTES, self.part_left):
                return R_MORE               # small parts would become small commands
            self.start += n
        _tell_part(self, p, n)
        self.part_left -= n
    if self.part_form == F_LZF_PARTS and (self.part_packed or self.lzf.available()):
        return self._fail("an LZF string holds more than it announced")
    while self.part_tail:
        if self.blob_start == self.blob_stop:
            r = _refill(self)
            if r != R_OK:
                return r
        n = min(self.part_tail, self.blob_stop - self.blob_start)
        self.blob_start += n
        self.part_tail -= n
    return _end_parts(self)


cdef int _unpack(Decoder self, uint64_t* packed) except -1:
    """Lets the LZF stream produce more from the window; R_MORE when the window is empty."""
    cdef Py_ssize_t available = <Py_ssize_t>min(<uint64_t>(self.stop - self.start), packed[0])
    cdef Py_ssize_t n
    if packed[0] == 0 and not self.lzf.literals and not self.lzf.match:
        return self._fail("an LZF string ends before its announced size")
    n = self.lzf.run(self.buffer + self.start, available)
    if n == -2:
        raise MemoryError
    if n < 0:
        return self._fail("corrupt LZF string")
    self.start += n
    packed[0] -= n
    if self.lzf.available():
        return R_OK
    if <uint64_t>available == packed[0] + n:
        return self._fail("an LZF string ends before its announced size")
    return R_MORE


cdef int _tell_part(Decoder self, const unsigned char* p, Py_ssize_t n) except -1:
    if self.part_purpose == PP_STRING:
        return self.to.string_part(p, n, self.part_size - self.part_left, self.part_size)
    if self.part_purpose == PP_ITEM:
        return self.to.large_data(p, n)
    if self.part_purpose == PP_ENTRY:
        return self.entry_to.large_data(p, n)
    return 0


cdef int _end_parts(Decoder self) except -1:
    self.state = self.after_part
    if self.part_purpose == PP_STRING:
        return end_value(self)
    if self.part_purpose == PP_ITEM:
        self.to.large_item_end()
    elif self.part_purpose == PP_ENTRY:
        self.entry_to.large_item_end()
    return R_OK


# -- containers ------------------------------------------------------------------------------------------------------------


cdef int open_blob(Decoder self, Cursor* c, int container, int state) except -1:
    """Reads the head of the string that is a container; its bytes go through the blob window."""
    cdef uint64_t packed = 0
    cdef int special = NOT_SPECIAL
    cdef Py_ssize_t wanted
    cdef unsigned char* grown
    cdef int r = read_string_head(c, &self.blob_size, &packed, &special)
    if r == R_MORE:
        return R_MORE
    if r == R_BAD or (special >= 0 and special != 3):
        return self._fail("bad length of a container")
    if special == 3 and (packed > 2 * self.blob_size + 16 or self.blob_size // 264 > packed):
        return self._fail(f"LZF container of {packed} bytes claims to hold {self.blob_size}")
    # Two whole cells with their heads always fit.
    wanted = <Py_ssize_t>min(self.blob_size, <uint64_t>(2 * self.chunk + 1024)) + 64
    if self.blob_capacity < wanted:
        grown = <unsigned char*>PyMem_Realloc(self.blob, wanted)
        if grown == NULL:
            raise MemoryError
        self.blob = grown
        self.blob_capacity = wanted
    self.container = container
    self.blob_start = self.blob_stop = 0
    self.blob_left = self.blob_size
    self.blob_packed = packed
    self.blob_form = F_LZF_PARTS if special == 3 else F_RAW_PARTS
    if special == 3:
        self.lzf.reset()
    self.opened = False
    self._consume(c)
    self.state = state
    return R_OK


cdef int _refill(Decoder self) except -1:
    """Moves more bytes of the container into its window; R_MORE when the snapshot's window is empty."""
    cdef Py_ssize_t room
    cdef Py_ssize_t n
    cdef const unsigned char* p
    cdef int r
    if self.blob_left == 0:
        return self._fail("a container ends in the middle of an entry")
    if self.blob_start:
        memmove(self.blob, self.blob + self.blob_start, self.blob_stop - self.blob_start)
        self.blob_stop -= self.blob_start
        self.blob_start = 0
    room = <Py_ssize_t>min(<uint64_t>(self.blob_capacity - self.blob_stop), self.blob_left)
    if room == 0:
        return self._fail("an entry of a container does not fit the window", LimitExceeded)
    if self.blob_form == F_LZF_PARTS:
        if self.lzf.available() == 0:
            r = _unpack(self, &self.blob_packed)
            if r != R_OK:
                return r
        p = self.lzf.buffer + self.lzf.taken
        n = min(room, self.lzf.available())
        self.lzf.taken += n
    else:
        p = self.buffer + self.start
        n = min(room, self.stop - self.start)
        if n == 0:
            return R_MORE
        self.start += n
    memcpy(self.blob + self.blob_stop, p, n)
    self.blob_stop += n
    self.blob_left -= n
    return R_OK


cdef int _need(Decoder self, Py_ssize_t n) except -1:
    """At least *n* bytes of the container in its window."""
    cdef int r
    while self.blob_stop - self.blob_start < n:
        r = _refill(self)
        if r != R_OK:
            return r
    return R_OK


cdef int _open_container(Decoder self) except -1:
    """The container's own header, checked against the size of the string."""
    cdef const unsigned char* p
    cdef Py_ssize_t head = 0
    cdef int r
    if self.container == K_LISTPACK:
        head = 6
    elif self.container == K_ZIPLIST:
        head = 10
    elif self.container == K_INTSET:
        head = 8
    else:
        head = 1
    r = _need(self, head)
    if r != R_OK:
        return r
    p = self.blob + self.blob_start
    if self.container == K_LISTPACK or self.container == K_ZIPLIST:
        if le32(p) != self.blob_size:
            return self._fail(f"a container of {self.blob_size} bytes says it has {le32(p)}")
    elif self.container == K_INTSET:
        self.int_width = le32(p)
        self.int_left = le32(p + 4)
        if self.int_width not in (2, 4, 8) or 8 + self.int_width * self.int_left != self.blob_size:
            return self._fail("bad intset header")
    self.blob_start += head
    self.opened = True
    return R_OK


cdef int _cell(Decoder self, const unsigned char** p, int i) except -2:
    """One cell of the container into item *i*."""
    cdef Py_ssize_t available = self.blob + self.blob_stop - p[0]
    cdef Cell* cell = &self.cell
    cdef Item* item = &self.items[i]
    cdef int r
    if self.container == K_LISTPACK:
        r = listpack_cell(p[0], available, cell)
    elif self.container == K_ZIPLIST:
        r = ziplist_cell(p[0], available, cell)
    elif self.container == K_ZIPMAP:
        r = zipmap_cell(p[0], available, i & 1, cell)
    elif self.int_left == 0:
        r = CELL_END
    else:
        cell.is_number = True
        cell.head = self.int_width
        cell.tail = 0
        cell.n = 0
        r = CELL_OK if available >= self.int_width else CELL_MORE
        if r == CELL_OK:
            cell.number = little_signed(p[0], self.int_width)
    if r == CELL_BAD:
        return self._fail("corrupt entry in a container")
    if r != CELL_OK:
        return R_END if r == CELL_END else R_MORE
    item.form = F_WHOLE
    self.is_number[i] = cell.is_number
    if cell.n > <uint64_t>self.chunk:
        if cell.n > self.blob_size:
            return self._fail("an entry is longer than its container")
        item.n = cell.n
        return R_LARGE
    if <uint64_t>available < cell.head + cell.n + cell.tail:
        return R_MORE
    if cell.is_number:
        self.number[i] = cell.number
        item.p = <unsigned char*>self.digits[i]
        item.n = portd_format_i64(self.digits[i], cell.number)
    else:
        item.p = p[0] + cell.head
        item.n = cell.n
    p[0] += cell.head + cell.n + cell.tail
    return R_OK


cdef int take_cells(Decoder self, int first, int limit) except -1:
    """Cells into items *first* .. *limit* - 1, all or none; they end at `blob_next`.

    R_LARGE: cell `large_at` is too long, the ones before it are whole, and its bytes begin at `blob_next`. R_END: the
    container ends where the first cell would begin.
    """
    cdef const unsigned char* p
    cdef int i = first
    cdef int r = R_OK
    if not self.opened:
        r = _open_container(self)
        if r != R_OK:
            return r
    while True:
        p = self.blob + self.blob_start
        for i in range(first, limit):
            r = _cell(self, &p, i)
            if r != R_OK:
                break
        self.blob_next = p - self.blob
        if r == R_OK:
            return R_OK
        if r == R_LARGE:
            self.large_at = i
            self.blob_next += self.cell.head
            return R_LARGE
        if r == R_END:
            if i != first:
                return self._fail("a container ends in the middle of an element")
            return R_END
        r = _refill(self)
        if r != R_OK:
            return r


cdef int close_container(Decoder self) except -1:
    """The end mark must be the container's last byte."""
    cdef Py_ssize_t mark = 0 if self.container == K_INTSET else 1
    if self.blob_left or self.blob_stop - self.blob_start != mark:
        return self._fail("a container goes on behind its end mark")
    if self.blob_form == F_LZF_PARTS and (self.blob_packed or self.lzf.available()):
        return self._fail("an LZF string holds more than it announced")
    self.container = K_NONE
    return 0


cdef int take_numbers(Decoder self, int n) except -1:
    """The next *n* cells, all numbers."""
    cdef int i
    cdef int r = take_cells(self, 0, n)
    if r == R_END or r == R_LARGE:
        return self._fail("corrupt container")
    if r == R_OK:
        for i in range(n):
            if not self.is_number[i]:
                return self._fail("a number is missing in a container")
        self.blob_start = self.blob_next
    return r
