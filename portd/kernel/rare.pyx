# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Modules, arrays and templated hashes: values that few snapshots have."""

from decimal import Decimal

from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from portd.errors import LimitExceeded

from portd.kernel.containers cimport le64
from portd.kernel.elements cimport ElementReader
from portd.kernel.encodings cimport (
    E_NONE, E_TEMPLATE_ITEMS, E_TEMPLATE_ITEMS_REF, E_TEMPLATE_LISTPACK, E_TEMPLATE_LISTPACK_REF, K_LISTPACK, K_NONE,
)
from portd.kernel.handler cimport F_WHOLE
from portd.kernel.reader cimport Cursor, R_END, R_LARGE, R_MORE, R_OK
from portd.kernel.window cimport PP_SKIP, ST_ARRAY, ST_HEAD, ST_MODULE, ST_TEMPLATE


cdef enum:
    TEMPLATES_BYTES = 4 << 20       # field names of hash templates: those of the snapshot and of the value in progress
    NAME_COST = 64                  # bytes that an object costs beside what is in it
    TEMPLATE_COST = 192             # of a template without names: its list, its number and its place in the dict


cdef class RareReader(ElementReader):
    def __cinit__(self, *_, **__):
        self.templates = {}

    cdef int _remember_template(self, Cursor* c) except -1:
        """HASH_TEMPLATE: the field names that values of types 30 and 32 refer to."""
        cdef uint64_t id = 0
        cdef uint64_t n = 0
        cdef list fields = []
        cdef Py_ssize_t size = TEMPLATE_COST        # however few names it has
        cdef int r = self._number(c, &id)
        if r == R_OK:
            r = self._number(c, &n)
        while r == R_OK and n:
            r = self._item(c, 0)
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

    cdef int _module(self) except -1:
        """Steps over module items one by one, whatever their size, up to the closing 0."""
        cdef Cursor c = self._cursor()
        cdef uint64_t tag = 0
        cdef uint64_t ignored = 0
        cdef int r = self._number(&c, &tag)
        if r != R_OK:
            return r
        if tag == 0:
            self._consume(&c)
            if self.key.encoding != E_NONE:
                return self._end_value()
            self.state = ST_HEAD
            return R_OK
        if tag <= 2:
            r = self._number(&c, &ignored)
        elif tag <= 4:
            r = R_OK if c.end - c.p >= (4 if tag == 3 else 8) else R_MORE
            c.p += (4 if tag == 3 else 8) if r == R_OK else 0
        elif tag == 5:
            r = self._item(&c, 0)
            if r == R_LARGE:
                self._consume(&c)
                return self._begin_parts(PP_SKIP, &self.items[0], False, ST_MODULE)
        else:
            return self._fail(f"unknown tag {tag} in a module value")
        if r == R_OK:
            self._consume(&c)
        return r

    cdef int _begin_array(self, Cursor* c) except -1:
        """Behind the count: whether an insert index follows."""
        cdef uint64_t flag = 0
        cdef uint64_t insert = 0
        cdef int r = self._number(c, &flag)
        if r == R_OK and flag == 1:
            r = self._number(c, &insert)
        if r != R_OK:
            return r
        self.large_number = insert
        self.array_seeks = flag == 1
        self._consume(c)
        self.state = ST_ARRAY
        return R_OK

    cdef int _array(self) except -1:
        cdef Cursor c = self._cursor()
        cdef uint64_t index = 0
        cdef uint64_t tag = 0
        cdef int r
        while self.left:
            if self.out.ready:
                return R_OK
            r = self._number(&c, &index)
            if r == R_OK:
                r = self._number(&c, &tag)
            if r != R_OK:
                return r
            if tag == 1 or tag == 2:
                if c.end - c.p < 8:
                    return R_MORE
                if tag == 2:
                    self._slot_float(le64(c.p))
                else:
                    self._expiry_text(<int64_t>le64(c.p))
                c.p += 8
            elif tag == 0 or tag == 3:
                r = self._item(&c, 1)
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
        return self._end_value()

    cdef int _slot_float(self, uint64_t bits) except -1:
        """A float as the user wrote it, in item 1: the fewest digits that are this number, never with an exponent.

        Servers store a text as a float only when it is that (sparsearray.c:arTryEncodeFloat); anything else is a string to them.
        """
        cdef double value = 0
        memcpy(&value, &bits, 8)
        if isnan(value) or isinf(value):
            return self._score(bits)
        text = format(Decimal(repr(value)), "f")
        self.slot_text = (text if "." in text else text + ".0").encode()
        self.items[1].p = <const unsigned char*><const char*>self.slot_text
        self.items[1].n = len(self.slot_text)
        self.items[1].form = F_WHOLE
        return 0

    cdef int _begin_template(self, Cursor* c) except -1:
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
            return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
        if encoding == E_TEMPLATE_ITEMS_REF:
            r = self._number(c, &id)
            if r != R_OK:
                return r
            self._find_template(id)
        else:
            r = self._number(c, &format)
            if r == R_OK and format == 0:
                self.template_step = 2              # names in a listpack of their own
                return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
            if r == R_OK:
                r = self._number(c, &n)
            while r == R_OK and n:
                r = self._item(c, 0)
                if r == R_OK:
                    self._add_name()
                n -= 1
            if r == R_LARGE:
                return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
            if r != R_OK:
                return r
            if encoding == E_TEMPLATE_LISTPACK:
                self.template_step = 0
                return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
        self.template_step = 0
        self.container = K_NONE
        self._consume(c)
        self.state = ST_TEMPLATE
        return R_OK

    cdef int _add_name(self) except -1:
        """One more field name, in a value that brings its own."""
        self.template_size += self.items[0].n + NAME_COST
        if self.templates_size + self.template_size > TEMPLATES_BYTES:
            return self._fail("the field names of a templated hash take too much memory", LimitExceeded)
        self.template.append(self.items[0].p[:self.items[0].n])
        return 0

    cdef int _find_template(self, uint64_t id) except -1:
        template = self.templates.get(id)
        if template is None:
            return self._fail(f"hash template {id} is not in the snapshot")
        self.template = template
        return 0

    cdef int _template(self) except -1:
        cdef Cursor c
        cdef int r
        if self.out.ready:
            return R_OK
        if self.template_step == 1:                 # number of the template
            r = self._numbers(1)
            if r == R_OK:
                self._find_template(self.number[0])
                self.template_step = 0
            return r
        if self.template_step == 2:                 # one name
            r = self._take(0, 1)
            if r == R_OK:
                self._add_name()
                self.blob_start = self.blob_next
            elif r == R_LARGE:
                return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
            elif r == R_END:
                self._close_container()
                self.template_step = 0 if self.key.encoding == E_TEMPLATE_ITEMS else 3
                return R_OK
            return r
        if self.template_step == 3:                 # then the values' listpack
            c = self._cursor()
            r = self._open_blob(&c, K_LISTPACK, ST_TEMPLATE)
            if r == R_OK:
                self.template_step = 0
            return r
        return self._template_value()

    cdef int _template_value(self) except -1:
        cdef Cursor c = self._cursor()
        cdef int r
        cdef bytes name
        if self.template_at == len(self.template):
            if self.container != K_NONE:
                r = self._take(1, 2)
                if r == R_MORE:
                    return R_MORE
                if r != R_END:
                    return self._fail("a templated hash has more values than fields")
                self._close_container()
            self.template = []
            self.template_size = 0
            return self._end_value()
        r = self._item(&c, 1) if self.container == K_NONE else self._take(1, 2)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            return self._fail("a templated hash has fewer values than fields")
        name = self.template[self.template_at]
        self.items[0].p = <const unsigned char*><const char*>name
        self.items[0].n = len(name)
        self.items[0].form = F_WHOLE
        if r == R_LARGE:
            self._long_begin(&c, 1, self.container != K_NONE)
            if self.container != K_NONE:
                self.blob_start = self.blob_next
            return R_OK
        self.to.field(&self.items[0], &self.items[1], -1)
        if self.container == K_NONE:
            self._consume(&c)
        else:
            self.blob_start = self.blob_next
        return self._template_next()

    cdef int _template_next(self) except -1:
        self.template_at += 1
        self.done += 1
        return R_OK
