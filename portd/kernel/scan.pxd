# cython: language_level=3
"""The command at the head of the window as far as it was looked at; the methods are in ``scan.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.commandtable cimport CommandTable, Row
from portd.kernel.keypositions cimport Layout
from portd.kernel.piecebuffer cimport PieceBuffer


cdef struct Scan:  # the command at the head as far as it was looked at; indexes count from the head
    Py_ssize_t next  # where the next header begins
    int64_t argc  # 0: its header was not read
    int64_t done  # arguments before ``next``
    Py_ssize_t name
    Py_ssize_t name_size


cdef class CommandScanner:
    cdef PieceBuffer buffer
    cdef Scan scan
    cdef CommandTable table

    cdef int _scan_command(self) noexcept
    cdef int _scan_empty(self, const uint8_t* cursor, const uint8_t* end) noexcept
    cdef int _note_name(self, Py_ssize_t index, uint64_t size) noexcept
    cdef int _bad_command(self, int why) noexcept
    cdef const Row* _row_at_head(self) noexcept
    cdef const Layout* _layout(self, const Row* row) noexcept
    cdef bytes _name(self)
    cdef const uint8_t* _arguments(self) noexcept
    cdef bint _first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept
