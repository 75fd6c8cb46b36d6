# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Leaves out the timestamps of append-only files: lines such as ``#TS:1617181920`` between commands.

They stand between commands only, from where ``aof-timestamp-enabled`` was switched on (aof.c:genAofTimestampAnnotation),
so commands have to be walked over to find them; the same bytes in a value are data.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr


cdef enum:
    LINE_BYTES = 64 * 1024  # longest annotation or header believed
    MAX_DIGITS = 18


@cython.final
cdef class AnnotationFilter:
    cdef bytes kept  # a line that is not whole yet
    cdef int64_t arguments  # of the command in progress, still to come
    cdef int64_t payload  # bytes of the argument in progress, its CRLF included, still to come
    cdef bint lost  # what came is neither a command nor an annotation: all that follows goes on

    def __cinit__(self):
        self.kept = b""

    def feed(self, data):
        cdef bytes text = self.kept + bytes(data)
        cdef const uint8_t* base = text
        cdef const uint8_t* line_end
        cdef Py_ssize_t size = len(text)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t begin = 0
        cdef Py_ssize_t step
        cdef list out = []
        while at < size and not self.lost:
            if self.payload:
                step = <Py_ssize_t> min(self.payload, <int64_t> (size - at))
                self.payload -= step
                at += step
                continue
            line_end = <const uint8_t*> memchr(base + at, c"\n", min(size - at, <Py_ssize_t> LINE_BYTES))
            if line_end == NULL:
                if size - at < LINE_BYTES:
                    break
                self.lost = True
            elif base[at] == c"#" and self.arguments == 0:
                out.append(text[begin:at])
                at = begin = line_end + 1 - base
            else:
                self._header(base + at, line_end)
                at = line_end + 1 - base
        if self.lost:
            at = size
        self.kept = text[at:]
        if not out:
            return text if at == size else text[:at]
        out.append(text[begin:at])
        return b"".join(out)

    def rest(self):
        rest, self.kept = self.kept, b""
        return b"" if rest.startswith(b"#") and self.arguments == self.payload == 0 else rest

    cdef int _header(self, const uint8_t* line, const uint8_t* end) noexcept:
        """Reads ``*n`` or ``$n``; what else may stand where a command begins is empty, or takes no arguments."""
        cdef bint argument = self.arguments > 0
        cdef int64_t number = 0
        if end > line and (end - 1)[0] == c"\r":
            end -= 1
        if not argument and (end == line or (end - line > 1 and line[0] == c"*" and line[1] == c"-")):
            return 0
        if line[0] != (c"$" if argument else c"*") or end - line < 2 or end - line > MAX_DIGITS:
            self.lost = True
            return 0
        line += 1
        while line < end:
            if not c"0" <= line[0] <= c"9":
                self.lost = True
                return 0
            number = 10 * number + line[0] - c"0"
            line += 1
        if argument:
            self.arguments -= 1
            self.payload = number + 2
        else:
            self.arguments = number
        return 0
