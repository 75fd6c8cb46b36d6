# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What forms are written with: the arguments of the command at the head, and commands made of them.

Other forms are written by two classes derived from this one: ``orderedforms.pyx`` (sorted sets and streams) and ``rewrite.pyx``.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from portd.kernel.dialect cimport Dialect
from portd.kernel.edit cimport Editor
from portd.kernel.forms cimport Forms
from portd.kernel.piecebuffer cimport PieceBuffer
from portd.kernel.resp cimport NEVER_MS, SMALL, argument_behind, is_word, load_word, read_number


cdef class FormWriter:
    def __cinit__(self, PieceBuffer buffer, Editor editor, Forms forms, Dialect dialect, bint pxat, bint unlink):
        self.buffer = buffer
        self.editor = editor
        self.forms = forms
        self.dialect = dialect
        self.pxat = pxat
        self.unlink = unlink

    def __dealloc__(self):
        PyMem_Free(self.arguments)

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return self.capacity * <Py_ssize_t> sizeof(Argument)

    cdef const uint8_t* behind(self, int64_t done) noexcept:
        """Where the header of the first argument that is not *done* stands."""
        return self.header if done == 1 else self.arguments[done - 1].text + self.arguments[done - 1].size + 2

    cdef int _parse(self, const uint8_t* header, int64_t argc, int64_t known) except -1:
        cdef Argument* grown
        cdef int64_t i
        if known > self.capacity:
            grown = <Argument*> PyMem_Realloc(self.arguments, known * sizeof(Argument))
            if grown == NULL:
                raise MemoryError
            self.arguments = grown
            self.capacity = known
        for i in range(1, known):
            self.arguments[i].text = argument_behind(header, &self.arguments[i].size)
            header = self.arguments[i].text + self.arguments[i].size + 2
        self.known = known
        self.argc = argc
        return 0

    # ------------------------------------------------------------------------------------------------------- arguments

    cdef inline bint _is(self, int64_t i, const char* word) noexcept:
        """Whether argument *i* is there and is *word*, of at most eight letters."""
        return i < self.known and is_word(self.arguments[i].text, self.arguments[i].size, word)

    cdef inline bint _begins(self, int64_t i, const char* word) noexcept:
        """Whether argument *i* is there, eight letters of *word* begin it, and it is as long."""
        cdef Argument* argument = &self.arguments[i]
        cdef Py_ssize_t size = 0
        while word[size] != 0:
            size += 1
        return (
            i < self.known and argument.size == size
            and load_word(argument.text, 8) == load_word(<const uint8_t*> word, 8)
        )

    cdef bint _same(self, int64_t i, int64_t other) noexcept:
        """Whether arguments *i* and *other* are equal."""
        cdef Argument* one = &self.arguments[i]
        cdef Argument* two = &self.arguments[other]
        return one.size == two.size and not memcmp(one.text, two.text, one.size)

    cdef bint _number(self, int64_t i, int64_t* number) noexcept:
        """Reads argument *i*."""
        return (
            i < self.known and self.arguments[i].size <= SMALL
            and read_number(self.arguments[i].text, self.arguments[i].size, NEVER_MS, number)
        )

    cdef bint _reads_expiry(self, int64_t i) noexcept:
        """Whether argument *i* is an option that sets an expiry by the next one, which is read."""
        cdef bint seconds = self._is(i, "EX") or self._is(i, "EXAT")
        cdef bint relative = self._is(i, "EX") or self._is(i, "PX")
        cdef int64_t time = 0
        if not (seconds or relative or self._is(i, "PXAT")) or not self._number(i + 1, &time):
            return False
        if seconds:
            time = min(time, NEVER_MS // 1000) * 1000
        self.expiry.at = max(time + (self.now_ms if relative else 0), 1)
        self.expiry.relative = relative
        return True

    # --------------------------------------------------------------------------------------------------------- writing

    cdef int _begin(self, int64_t argc, const char* name) except -1:
        """Begins a command."""
        self.begun += 1
        return self.buffer.write_head(argc, name)

    cdef int _copy(self, int64_t i) except -1:
        """Writes argument *i* as it came."""
        return self.buffer.write_argument(self.arguments[i].text, self.arguments[i].size)

    cdef int _copy_all(self, int64_t i, int64_t end) except -1:
        """Writes arguments *i* to *end*, without that."""
        while i < end:
            self._copy(i)
            i += 1
        return 0

    cdef int64_t _script(self, bytes text, int64_t keys, int64_t i) except -1:
        """Begins a script with the arguments from *i* on, of which the first *keys* are keys."""
        if not self.forms.scripts or self.argc < 1 + keys:
            return 0
        self._begin(self.argc - i + 3, "EVAL")
        self.buffer.write_argument(<const char*> text, len(text))
        self.buffer.write_number(keys)
        return i

    cdef int _expire(self, int64_t key, int64_t at) except -1:
        """Writes PEXPIREAT of argument *key*."""
        self._begin(3, "PEXPIREAT")
        self._copy(key)
        return self.buffer.write_number(at)
