# cython: language_level=3
"""What is left of a command when rules take some of its keys; the methods are in ``project.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.border cimport Border
from portd.kernel.keypositions cimport Found, Layout, Ours
from portd.kernel.mapping cimport Mapping
from portd.kernel.owed cimport Owed
from portd.kernel.rules cimport Rules


cdef enum Fate:  # of a command
    P_ALL  # goes on
    P_BY_KEY  # nothing that is taken would change
    P_BY_DATABASE
    P_KEYS  # does the same to each of its keys: goes on with those that are taken
    P_HALF  # what it takes away is taken, and where it goes is not
    P_PARTS  # likewise, where it goes is in another slot
    P_CROSSES  # what it needs is not in the target
    P_UNKNOWN  # nobody knows what its keys are
    P_MORE  # that cannot be told yet
    P_OURS  # it would write under a name of ours
    P_BLOCKED  # it would write to a database in whose place another one is put


cdef struct Command:  # as it was scanned
    const uint8_t* name
    Py_ssize_t size
    const uint8_t* header  # of the argument behind that
    const uint8_t* end  # of what is at hand
    int64_t argc
    Py_ssize_t most  # bytes behind the name that can be at hand
    int64_t db


cdef class Projector:
    cdef Rules rules  # None: all is taken
    cdef Mapping mapping  # None: names and databases stay
    cdef Ours* ours
    cdef frozenset blocked  # databases of the source that may not be written, for another one goes where they would
    cdef readonly bint by_names  # some names are not taken
    cdef readonly bint by_databases  # some databases are not, or have another number
    cdef readonly bint renames
    cdef bint parted  # the target takes commands of one slot only
    cdef Owed owed  # keys whose values the target does not have
    cdef Border border  # of slots that others have as well; None: there are no others
    cdef int64_t db  # database of the command that is looked at
    cdef int64_t to_db  # of a MOVE or COPY: the database it writes to, and the key there
    cdef const uint8_t* to_key
    cdef Py_ssize_t to_size
    cdef object error  # that a regular expression has raised; None: none did
    cdef bint reserves  # a name can become one of ours, for its beginning is taken away

    cdef bint takes(self, const uint8_t* key, Py_ssize_t size) noexcept
    cdef bint takes_in(self, int64_t db, const uint8_t* key, Py_ssize_t size) noexcept
    cdef bint takes_database(self, int64_t db) noexcept
    cdef int64_t database(self, int64_t db) noexcept
    cdef int64_t place(self, int64_t db) noexcept
    cdef bint alone(self, int64_t db) noexcept
    cdef int slot(self, const uint8_t* key, Py_ssize_t size) noexcept
    cdef int fate(self, const Command* command, const Layout* layout, Found* found) noexcept
    cdef bint owe(self, const Command* command, const Found* found) noexcept
    cdef bint owe_second(self, const Command* command) noexcept
    cdef const uint8_t* _next_written(
        self, const Command* command, const Found* found, int64_t* index, const uint8_t** header, Py_ssize_t* size
    ) noexcept
    cdef const uint8_t* lost(self, const Command* command, const Layout* layout, int64_t* db, Py_ssize_t* size) noexcept
    cdef int fate_of_large(self, const Command* command, const Layout* layout, Found* found, int* others) noexcept
    cdef bint _within(self, const uint8_t* key, Py_ssize_t size) except -1
    cdef bint _becomes_ours(self, const uint8_t* key, Py_ssize_t size) noexcept
    cdef bint _are_one(
        self, int64_t db, const uint8_t* key, Py_ssize_t size, int64_t to, const uint8_t* second, Py_ssize_t other
    ) noexcept
    cdef bint _is_blocked(self, int64_t db) noexcept
    cdef int _across(self, const Command* command, bint copies) noexcept
    cdef int _mixed(self, const Command* command, const Layout* layout, const Found* found, bint first, int wrote) noexcept
    cdef int _over_slots(self, const Command* command, const Layout* layout, int wrote) noexcept
