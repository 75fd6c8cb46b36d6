# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Modules, arrays and templated hashes: values that few snapshots have."""

from decimal import Decimal

from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from portd.errors import LimitExceeded

from portd.kernel.blob cimport begin_parts, close_container, open_blob, take_cells, take_numbers
from portd.kernel.containers cimport le64
from portd.kernel.decoder cimport Decoder, PP_SKIP, ST_ARRAY, ST_HEAD, ST_MODULE, ST_TEMPLATE, end_value
from portd.kernel.elements cimport begin_long, template_next, write_expiry, write_score
from portd.kernel.encodings cimport (
    E_NONE, E_TEMPLATE_ITEMS, E_TEMPLATE_ITEMS_REF, E_TEMPLATE_LISTPACK, E_TEMPLATE_LISTPACK_REF, K_LISTPACK, K_NONE,
)
from portd.kernel.handler cimport F_WHOLE
from portd.kernel.reader cimport Cursor, R_END, R_LARGE, R_MORE, R_OK
from portd.kernel.window cimport next_item, next_number


cdef enum:
    TEMPLATES_BYTES = 4 << 20       # field names of hash templates: those of the snapshot and of the value in progress
    NAME_COST = 64                  # bytes that an object costs beside what is in it
    TEMPLATE_COST = 192             # of a template without names: its list, its number and its place in the dict


cdef int remember_template(Decoder self, Cursor* c) except -1:
    """HASH_TEMPLATE: the field names that values of types 30 and 32 refer to."""
    cdef uint64_t id = 0
    cdef uint64_t n = 0
    cdef list fields = []
    cdef Py_ssize_t size = TEMPLATE_COST        # however few names it has
    cdef int r = next_number(self, c, &id)
    if r == R_OK:
        r = next_number(self, c, &n)
    while r == R_OK and n:
        r = next_item(self, c, 0)
        if r == R_OK:
            fields.append(self.items[0].p[:self.items[0].n])
            size += self.items[0].n + NAME_COST
        if r == R_LARGE or self.templates_size + size > TEMPLATES_BYTES:
            return self._fail("hash templates take too much memory", LimitExceeded)
        n -= 1
    # Templates without names never came by the check in the loop.
    if self.templates_size + size > TEMPLATES_BYTES:
        return self._fail("hash templates take too much memory", LimitExceeded)
    if r == R_OK:
        self.templates[id] = fields
        self.templates_size += size
    return r


# -- modules, arrays, templates ----------------------------------------------------------------------------------------------


cdef int read_module(Decoder self) except -1:
    """Steps over module items one by one, whatever their size, up to the closing 0."""
    cdef Cursor c = self._cursor()
    cdef uint64_t tag = 0
    cdef uint64_t ignored = 0
    cdef int r = next_number(self, &c, &tag)
    if r != R_OK:
        return r
    if tag == 0:
        self._consume(&c)
        if self.key.encoding != E_NONE:
            return end_value(self)
        self.state = ST_HEAD
        return R_OK
    if tag <= 2:
        r = next_number(self, &c, &ignored)
    elif tag <= 4:
        r = R_OK if c.end - c.p >= (4 if tag == 3 else 8) else R_MORE
        c.p += (4 if tag == 3 else 8) if r == R_OK else 0
    elif tag == 5:
        r = next_item(self, &c, 0)
        if r == R_LARGE:
            self._consume(&c)
            return begin_parts(self, PP_SKIP, &self.items[0], False, ST_MODULE)
    else:
        return self._fail(f"unknown tag {tag} in a module value")
    if r == R_OK:
        self._consume(&c)
    return r


cdef int begin_array(Decoder self, Cursor* c) except -1:
    """Behind the count: whether an insert index follows."""
    cdef uint64_t flag = 0
    cdef uint64_t insert = 0
    cdef int r = next_number(self, c, &flag)
    if r == R_OK and flag == 1:
        r = next_number(self, c, &insert)
    if r != R_OK:
        return r
    self.large_number = insert
    self.array_seeks = flag == 1
    self._consume(c)
    self.state = ST_ARRAY
    return R_OK


cdef int read_array(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef uint64_t index = 0
    cdef uint64_t tag = 0
    cdef int r
    while self.left:
        if self.out.ready:
            return R_OK
        r = next_number(self, &c, &index)
        if r == R_OK:
            r = next_number(self, &c, &tag)
        if r != R_OK:
            return r
        if tag == 1 or tag == 2:
            if c.end - c.p < 8:
                return R_MORE
            if tag == 2:
                _slot_float(self, le64(c.p))
            else:
                write_expiry(self, <int64_t>le64(c.p))
            c.p += 8
        elif tag == 0 or tag == 3:
            r = next_item(self, &c, 1)
            if r == R_LARGE:
                return self._fail("an array element is longer than chunk_bytes", LimitExceeded)
            if r != R_OK:
                return r
        else:
            return self._fail(f"unknown tag {tag} in an array")
        self.to.slot(index, &self.items[1])
        self._consume(&c)
        self.left -= 1
        self.done += 1
    self.to.array_end(self.array_seeks, self.large_number)
    return end_value(self)


cdef int _slot_float(Decoder self, uint64_t bits) except -1:
    """A float as the user wrote it, in item 1: the fewest digits that are this number, never with an exponent.

    Servers store a text as a float only when it is that (sparsearray.c:arTryEncodeFloat); anything else is a string to them.
    """
    cdef double value = 0
    memcpy(&value, &bits, 8)
    if isnan(value) or isinf(value):
        return write_score(self, bits)
    text = format(Decimal(repr(value)), "f")
    self.slot_text = (text if "." in text else text + ".0").encode()
    self.items[1].p = <const unsigned char*><const char*>self.slot_text
    self.items[1].n = len(self.slot_text)
    self.items[1].form = F_WHOLE
    return 0


cdef int begin_template(Decoder self, Cursor* c) except -1:
    """The field names of a templated hash: in the value (29, 31) or by number (30, 32)."""
    cdef int encoding = self.key.encoding
    cdef uint64_t format = 0
    cdef uint64_t id = 0
    cdef uint64_t n = 0
    cdef int r = R_OK
    self.template = []
    self.template_size = 0
    self.template_at = 0
    if encoding == E_TEMPLATE_LISTPACK_REF:
        # Its container begins with the number of the template.
        self.template_step = 1
        return open_blob(self, c, K_LISTPACK, ST_TEMPLATE)
    if encoding == E_TEMPLATE_ITEMS_REF:
        r = next_number(self, c, &id)
        if r != R_OK:
            return r
        _find_template(self, id)
    else:
        r = next_number(self, c, &format)
        if r == R_OK and format == 0:
            self.template_step = 2              # names in a listpack of their own
            return open_blob(self, c, K_LISTPACK, ST_TEMPLATE)
        if r == R_OK:
            r = next_number(self, c, &n)
        while r == R_OK and n:
            r = next_item(self, c, 0)
            if r == R_OK:
                _add_name(self)
            n -= 1
        if r == R_LARGE:
            return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
        if r != R_OK:
            return r
        if encoding == E_TEMPLATE_LISTPACK:
            self.template_step = 0
            return open_blob(self, c, K_LISTPACK, ST_TEMPLATE)
    self.template_step = 0
    self.container = K_NONE
    self._consume(c)
    self.state = ST_TEMPLATE
    return R_OK


cdef int _add_name(Decoder self) except -1:
    """One more field name, in a value that brings its own."""
    self.template_size += self.items[0].n + NAME_COST
    if self.templates_size + self.template_size > TEMPLATES_BYTES:
        return self._fail("the field names of a templated hash take too much memory", LimitExceeded)
    self.template.append(self.items[0].p[:self.items[0].n])
    return 0


cdef int _find_template(Decoder self, uint64_t id) except -1:
    template = self.templates.get(id)
    if template is None:
        return self._fail(f"hash template {id} is not in the snapshot")
    self.template = template
    return 0


cdef int read_template(Decoder self) except -1:
    cdef Cursor c
    cdef int r
    if self.out.ready:
        return R_OK
    if self.template_step == 1:                 # number of the template
        r = take_numbers(self, 1)
        if r == R_OK:
            _find_template(self, self.number[0])
            self.template_step = 0
        return r
    if self.template_step == 2:                 # one name
        r = take_cells(self, 0, 1)
        if r == R_OK:
            _add_name(self)
            self.blob_start = self.blob_next
        elif r == R_LARGE:
            return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
        elif r == R_END:
            close_container(self)
            self.template_step = 0 if self.key.encoding == E_TEMPLATE_ITEMS else 3
            return R_OK
        return r
    if self.template_step == 3:                 # then the values' listpack
        c = self._cursor()
        r = open_blob(self, &c, K_LISTPACK, ST_TEMPLATE)
        if r == R_OK:
            self.template_step = 0
        return r
    return _template_value(self)


cdef int _template_value(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef int r
    cdef bytes name
    if self.template_at == len(self.template):
        if self.container != K_NONE:
            r = take_cells(self, 1, 2)
            if r == R_MORE:
                return R_MORE
            if r != R_END:
                return self._fail("a templated hash has more values than fields")
            close_container(self)
        self.template = []
        self.template_size = 0
        return end_value(self)
    r = next_item(self, &c, 1) if self.container == K_NONE else take_cells(self, 1, 2)
    if r == R_MORE:
        return R_MORE
    if r == R_END:
        return self._fail("a templated hash has fewer values than fields")
    name = self.template[self.template_at]
    self.items[0].p = <const unsigned char*><const char*>name
    self.items[0].n = len(name)
    self.items[0].form = F_WHOLE
    if r == R_LARGE:
        begin_long(self, &c, 1, self.container != K_NONE)
        if self.container != K_NONE:
            self.blob_start = self.blob_next
        return R_OK
    self.to.field(&self.items[0], &self.items[1], -1)
    if self.container == K_NONE:
        self._consume(&c)
    else:
        self.blob_start = self.blob_next
    return template_next(self)
