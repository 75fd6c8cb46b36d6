# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""What is said of a piece beside its bytes: commands that were left out of it by name, and the databases it needs.

All of it is bounded; what is not kept is counted by the splitter.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t
from libc.string cimport memmove


cdef enum:
    REFUSALS_KEPT = 256  # of a piece
    NAMES_KEPT = 16
    NAME_SHOWN = 64  # bytes
    KEY_SHOWN = 1024

cdef tuple NOTHING = ()
cdef frozenset NOBODY = frozenset()


@cython.final
cdef class Refusal:
    """A command that cannot be written to the target."""

    def __repr__(self):
        return f"Refusal(offset={self.offset}, db={self.db}, command={self.command!r}, reason={self.reason!r})"


@cython.final
cdef class LeftOut:
    def __cinit__(self):
        self.refusals = []
        self.names = set()
        self.databases = set()

    cdef int refuse(
        self, int64_t offset, int64_t db, bytes command, bytes key, str code, str reason, Mapping mapping
    ) except -1:
        """Notes a command that is a dead letter; *db* and *key* are the source's, *mapping* tells those of the target."""
        cdef Refusal refusal
        if len(self.refusals) < REFUSALS_KEPT:
            refusal = Refusal.__new__(Refusal)
            refusal.offset = offset
            refusal.db = db
            refusal.command = command[:NAME_SHOWN].decode("ascii", "backslashreplace").upper()
            refusal.key = key[:KEY_SHOWN]
            refusal.source_db = -1
            refusal.source_key = b""
            if mapping is not None:
                refusal.source_db, refusal.source_key = db, refusal.key
                refusal.db = mapping.database(db)
                refusal.key = mapping.renamed(key)[:KEY_SHOWN] if key else key
            refusal.code = code
            refusal.reason = reason
            self.refusals.append(refusal)
        return 0

    cdef int filter(self, bytes command) except -1:
        """Notes the name of a command that is not for the target."""
        if len(self.names) < NAMES_KEPT:
            self.names.add(command[:NAME_SHOWN].decode("ascii", "backslashreplace").upper())
        return 0

    cdef int select(self, int64_t db) except -1:
        """Notes a database that a command needs."""
        self.databases.add(db)
        return 0

    cdef void mark(self) noexcept:
        """A transaction begins."""
        self.marked = len(self.refusals)

    cdef int back(self) except -1:
        """The transaction goes back, or is discarded: what it named and needed may be told still, what it lost may not."""
        del self.refusals[self.marked:]
        return 0

    cdef tuple take_refusals(self):
        if not self.refusals:
            return NOTHING
        taken = tuple(self.refusals)
        self.refusals = []
        return taken

    cdef frozenset take_names(self):
        if not self.names:
            return NOBODY
        taken = frozenset(self.names)
        self.names.clear()
        return taken

    cdef frozenset take_databases(self):
        if not self.databases:
            return NOBODY
        taken = frozenset(self.databases)
        self.databases.clear()
        return taken


@cython.final
cdef class Exclusions:
    """Offsets of commands."""

    def __dealloc__(self):
        PyMem_Free(self.offsets)

    cdef int add(self, int64_t offset) except -1:
        cdef Py_ssize_t at
        cdef int64_t* grown
        if self.count == self.capacity:
            at = max(2 * self.capacity, 8)
            grown = <int64_t*> PyMem_Realloc(self.offsets, at * sizeof(int64_t))
            if grown == NULL:
                raise MemoryError
            self.offsets = grown
            self.capacity = at
        at = self.count
        while at > 0 and self.offsets[at - 1] > offset:
            self.offsets[at] = self.offsets[at - 1]
            at -= 1
        self.offsets[at] = offset
        self.count += 1
        return 0

    cdef bint has(self, int64_t offset) noexcept:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.count
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            if self.offsets[middle] < offset:
                low = middle + 1
            else:
                high = middle
        return low < self.count and self.offsets[low] == offset

    cdef void forget(self, int64_t offset) noexcept:
        """Drops those up to *offset*: they have passed."""
        cdef Py_ssize_t passed = 0
        while passed < self.count and self.offsets[passed] <= offset:
            passed += 1
        if passed > 0:
            self.count -= passed
            memmove(self.offsets, self.offsets + passed, self.count * sizeof(int64_t))

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return self.capacity * <Py_ssize_t> sizeof(int64_t)
