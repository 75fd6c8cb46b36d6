# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Elements of collections: one after another in the snapshot, in containers, or item by item when one is too long."""

from libc.math cimport isinf, isnan, signbit
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from portd.errors import LimitExceeded

from portd.kernel.blob cimport begin_parts, close_container, open_blob, take_cells
from portd.kernel.containers cimport le64
from portd.kernel.decoder cimport (
    Decoder, PP_ITEM, ST_CELLS, ST_ITEMS, ST_LARGE, ST_NODES, ST_TEMPLATE, end_value, is_field_expiry,
)
from portd.kernel.encodings cimport (
    C_HASH, C_LIST, C_ZSET, E_HASH_TTL, E_HASH_TTL_RC, E_HASH_TTL_VALKEY, K_INTSET, K_NONE, S_NODES, S_TEMPLATE,
)
from portd.kernel.handler cimport F_DOUBLE, F_WHOLE
from portd.kernel.reader cimport Cursor, R_END, R_LARGE, R_MORE, R_OK
from portd.kernel.window cimport next_item, next_number
from portd.kernel.writer cimport portd_format_i64


# -- elements ------------------------------------------------------------------------------------------------------------


cdef int read_elements(Decoder self) except -1:
    """Elements that stand one after another in the window, as the layout's pattern says."""
    cdef Cursor c = self._cursor()
    cdef const char* op
    cdef uint64_t number = 0
    cdef int i
    cdef int r
    while self.left:
        if self.out.ready:
            return R_OK
        op = self.layout.pattern
        i = 0
        while op[0]:
            if op[0] == b"s":
                r = next_item(self, &c, i)
                i += 1
            elif op[0] == b"l":                     # an expiry of a field
                r = next_number(self, &c, &number)
                if r == R_OK and not is_field_expiry(number):
                    return self._fail("the expiry of a field is out of range", LimitExceeded)
            elif op[0] == b"d":
                r = R_MORE if c.end - c.p < 8 else R_OK
                if r == R_OK:
                    number = le64(c.p)
                    c.p += 8
            else:
                r = _score_text(self, &c)
            if r != R_OK:
                if r == R_LARGE:
                    return _long_in_items(self, &c, op - self.layout.pattern, i - 1, number)
                return r
            op += 1
        _tell(self, number)
        self._consume(&c)
        self.left -= 1
        self.done += 1
    return end_value(self)


cdef int _tell(Decoder self, uint64_t number) except -1:
    cdef int collection = self.layout.collection
    if collection == C_HASH:
        return self.to.field(&self.items[0], &self.items[1], _expiry(self, number))
    if collection == C_ZSET:
        if self.layout.pattern[1] == b"d":
            _binary_score(self, number)
        return self.to.scored(&self.items[0], &self.items[1])
    return self.to.element(&self.items[0])


cdef int64_t _expiry(Decoder self, uint64_t number) noexcept:
    """Expiry of a hash field, unix ms; -1 none."""
    if self.key.encoding == E_HASH_TTL:
        return self.minimum + <int64_t>number - 1 if number else -1
    if self.key.encoding == E_HASH_TTL_VALKEY:
        return <int64_t>number if <int64_t>number >= 0 else -1
    if self.key.encoding == E_HASH_TTL_RC:
        return <int64_t>number if number else -1
    return -1


cdef int _binary_score(Decoder self, uint64_t bits) except -1:
    """The score in item 1, in the form that the handler wants."""
    if not self.to.binary_scores:
        return write_score(self, bits)
    memcpy(self.digits[1], &bits, 8)
    self.items[1].p = <unsigned char*>self.digits[1]
    self.items[1].n = 8
    self.items[1].form = F_DOUBLE
    return 0


cdef int write_score(Decoder self, uint64_t bits) except -1:
    """The binary score as text, exact, in item 1."""
    cdef double value = 0
    cdef int n
    memcpy(&value, &bits, 8)
    if isnan(value):
        n = snprintf(self.digits[1], 32, "nan")
    elif isinf(value):
        n = snprintf(self.digits[1], 32, "-inf" if value < 0 else "inf")
    elif -1e15 < value < 1e15 and <double><int64_t>value == value and not (value == 0 and signbit(value)):
        n = portd_format_i64(self.digits[1], <int64_t>value)
    else:
        n = snprintf(self.digits[1], 32, "%.17g", value)
    self.items[1].p = <unsigned char*>self.digits[1]
    self.items[1].n = n
    self.items[1].form = F_WHOLE
    return 0


cdef int _score_text(Decoder self, Cursor* c) except -2:
    """A score of RDB versions up to 7: a length byte and text, or 253 nan, 254 inf, 255 -inf."""
    cdef int n
    if c.p >= c.end:
        return R_MORE
    n = c.p[0]
    self.items[1].form = F_WHOLE
    if n >= 253:
        n = snprintf(self.digits[1], 32, "nan" if n == 253 else "inf" if n == 254 else "-inf")
        self.items[1].p = <unsigned char*>self.digits[1]
        self.items[1].n = n
        c.p += 1
        return R_OK
    if c.end - c.p < 1 + n:
        return R_MORE
    self.items[1].p = c.p + 1
    self.items[1].n = n
    c.p += 1 + n
    return R_OK


cdef int read_cells(Decoder self) except -1:
    cdef int cells = self.layout.strings
    cdef int collection = self.layout.collection
    cdef int64_t expire_ms
    cdef int i
    cdef int r
    while True:
        if self.out.ready:
            return R_OK
        r = take_cells(self, 0, cells)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            close_container(self)
            if self.layout.shape == S_NODES:
                self.left -= 1
                self.state = ST_NODES
                return R_OK
            return end_value(self)
        if r == R_LARGE:
            i = self.large_at
            if (collection == C_ZSET and i == 1) or i == 2:
                return self._fail("score or expiry too long")
            self.large_at = i + 1
            begin_long(self, NULL, i, True)
            self.blob_start = self.blob_next
            return R_OK
        if collection == C_HASH:
            expire_ms = -1
            if cells == 3:
                if not self.is_number[2]:
                    return self._fail("the expiry of a field is not a number")
                expire_ms = self.number[2] if self.number[2] else -1
            self.to.field(&self.items[0], &self.items[1], expire_ms)
        elif collection == C_ZSET:
            self.to.scored(&self.items[0], &self.items[1])
        else:
            self.to.element(&self.items[0])
        self.blob_start = self.blob_next
        if self.container == K_INTSET:
            self.int_left -= 1
        self.done += 1


cdef int read_node(Decoder self) except -1:
    """The next node of a quicklist: a container, or (version 2) one plain element."""
    cdef Cursor c = self._cursor()
    cdef uint64_t kind = 2
    cdef int r
    if self.left == 0:
        return end_value(self)
    if self.out.ready:
        return R_OK
    if self.layout.pattern[0] == b"l":
        r = next_number(self, &c, &kind)
        if r != R_OK:
            return r
        if kind != 1 and kind != 2:
            return self._fail(f"quicklist node of unknown kind {kind}")
    if kind == 2:
        return open_blob(self, &c, self.layout.container, ST_CELLS)
    self.container = K_NONE
    r = next_item(self, &c, 0)
    if r == R_MORE:
        return R_MORE
    if self.items[0].n == 0:
        return self._fail("empty plain node in a quicklist")
    if r == R_LARGE:
        self.large_at = 2                       # nothing follows it
        return begin_long(self, &c, 0, False)
    self.to.element(&self.items[0])
    self._consume(&c)
    self.left -= 1
    self.done += 1
    return R_OK


# -- elements with a long item ---------------------------------------------------------------------------------------------


cdef int _long_in_items(Decoder self, Cursor* c, int op, int item, uint64_t number) except -1:
    """The string at *op* of the pattern is too long: from here on the element goes through item by item."""
    self.large_number = number
    self.large_at = op + 1
    return begin_long(self, c, item, False)


cdef int begin_long(Decoder self, Cursor* c, int item, bint in_blob) except -1:
    cdef int i
    cdef int collection = self.layout.collection
    self.to.large_begin(
        collection, 2 if collection == C_HASH else 1, has_last(self)
    )
    for i in range(item):
        _long_whole(self, i)
    if not in_blob:
        self._consume(c)
    self.to.large_item(self.items[item].n)
    return begin_parts(self, PP_ITEM, &self.items[item], in_blob, ST_LARGE)


cdef int _long_whole(Decoder self, int i) except -1:
    self.to.large_item(self.items[i].n)
    self.to.large_data(self.items[i].p, self.items[i].n)
    return self.to.large_item_end()


cdef bint has_last(Decoder self) noexcept:
    """An element's strings are followed by a score or an expiry."""
    if self.layout.collection == C_ZSET:
        return True
    if self.layout.collection != C_HASH or self.layout.shape == S_TEMPLATE:
        return False
    return self.layout.strings == 3 or self.layout.pattern[0] == b"l" or (
        self.layout.pattern[0] != 0 and self.layout.pattern[2] == b"d"
    )


cdef int read_large(Decoder self) except -1:
    """What follows a long item: more strings, each whole or long, then score or expiry."""
    if self.layout.shape == S_TEMPLATE:
        self.to.large_end(NULL)
        self.state = ST_TEMPLATE
        return template_next(self)
    if self.container != K_NONE:
        return _large_cells(self)
    return _large_items(self)


cdef int _large_items(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef const char* pattern = self.layout.pattern
    cdef int r
    while pattern[self.large_at]:
        if self.out.ready:
            return R_OK
        if pattern[self.large_at] == b"s":
            r = next_item(self, &c, 0)
            if r == R_MORE:
                return R_MORE
            self.large_at += 1
            self._consume(&c)
            if r == R_LARGE:
                self.to.large_item(self.items[0].n)
                return begin_parts(self, PP_ITEM, &self.items[0], False, ST_LARGE)
            _long_whole(self, 0)
        elif pattern[self.large_at] == b"d":
            if c.end - c.p < 8:
                return R_MORE
            self.large_number = le64(c.p)
            if self.layout.collection == C_ZSET:
                _binary_score(self, self.large_number)
            c.p += 8
            self.large_at += 1
            self._consume(&c)
        else:
            r = _score_text(self, &c)
            if r != R_OK:
                return r
            self.large_at += 1
            # Told at once: the text stands in the window.
            self.to.large_end(&self.items[1])
            self._consume(&c)
            return _long_done(self, ST_ITEMS)
    if self.layout.collection == C_HASH and has_last(self):
        write_expiry(self, _expiry(self, self.large_number))
    self.to.large_end(&self.items[1] if has_last(self) else NULL)
    return _long_done(self, ST_ITEMS)


cdef int write_expiry(Decoder self, int64_t expire_ms) except -1:
    self.items[1].p = <unsigned char*>self.digits[1]
    self.items[1].n = portd_format_i64(self.digits[1], expire_ms)
    self.items[1].form = F_WHOLE
    return 0


cdef int _long_done(Decoder self, int state) except -1:
    if state == ST_ITEMS:
        self.left = self.left - 1
        if self.layout.shape == S_NODES:
            state = ST_NODES
    self.done += 1
    self.state = state
    return R_OK


cdef int _large_cells(Decoder self) except -1:
    cdef int cells = self.layout.strings
    cdef int strings = 2 if self.layout.collection == C_HASH else 1
    cdef int r
    cdef int64_t expire_ms
    while self.large_at < cells:
        if self.out.ready:
            return R_OK
        r = take_cells(self, self.large_at, self.large_at + 1)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            return self._fail("a container ends in the middle of an element")
        if self.large_at >= strings:
            if r == R_LARGE:
                return self._fail("score or expiry too long")
            if self.layout.collection == C_HASH:
                if not self.is_number[self.large_at]:
                    return self._fail("the expiry of a field is not a number")
                expire_ms = self.number[self.large_at]
                write_expiry(self, expire_ms if expire_ms else -1)
                self.to.large_end(&self.items[1])
            else:
                self.to.large_end(&self.items[self.large_at])
            self.blob_start = self.blob_next
            return _long_done(self, ST_CELLS)
        self.large_at += 1
        if r == R_LARGE:
            self.to.large_item(self.items[self.large_at - 1].n)
            self.blob_start = self.blob_next
            return begin_parts(self, PP_ITEM, &self.items[self.large_at - 1], True, ST_LARGE)
        _long_whole(self, self.large_at - 1)
        self.blob_start = self.blob_next
    self.to.large_end(NULL)
    return _long_done(self, ST_CELLS)


cdef int template_next(Decoder self) except -1:
    """Goes on behind one value of a templated hash."""
    self.template_at += 1
    self.done += 1
    return R_OK
