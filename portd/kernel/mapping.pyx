# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Under which names and in which databases things are written: beginnings of keys are swapped, databases have other numbers.

Nothing is allocated for a key: `find` says which bytes at its beginning go and which come instead, and who writes it does so.
Of several swaps that fit, the longest counts. What is put in front of all keys is a swap of nothing, and part of every other one.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport INT32_MAX, int64_t, uint8_t
from libc.string cimport memcmp

from portd.kernel.prefixes cimport Prefixes


@cython.final
cdef class Mapping:
    def __cinit__(self, renamed=None, *, bytes added not None=b"", databases=None, all_to=None, bytes own not None=b""):
        cdef dict swaps = dict(renamed or {})
        self.added = added
        self.own = own
        self.to = dict(databases or {})
        self.all_to = -1 if all_to is None else all_to
        if self.to and self.all_to >= 0:
            raise ValueError("databases are mapped one by one, or all to one, not both")
        for number in (*self.to, *self.to.values(), max(self.all_to, 0)):
            if not 0 <= number <= INT32_MAX:
                raise ValueError(f"{number} is no number of a database")
        swaps.setdefault(b"", b"")
        swaps = {old: added + new for old, new in swaps.items()}
        if not swaps[b""]:
            del swaps[b""]
        if own:
            for old, new in swaps.items():
                if new.startswith(own) or (new and own.startswith(new)):
                    raise ValueError(f"{new!r} instead of {old!r}: names that begin with {own!r} are portd's own")
        self._fill(swaps)
        self.names = any(old != new for old, new in swaps.items())
        self.databases = self.all_to >= 0 or any(old != new for old, new in self.to.items())

    def __dealloc__(self):
        PyMem_Free(self.swaps)

    cdef int _fill(self, dict renamed) except -1:
        cdef Swap* swap
        cdef bytes old, new
        self.texts = sorted(renamed.items())
        self.olds = Prefixes(renamed)
        self.count = self.olds.count
        self.swaps = <Swap*> PyMem_Calloc(self.count + 1, sizeof(Swap))
        if self.swaps == NULL:
            raise MemoryError
        for number, (old, new) in enumerate(self.texts):
            swap = &self.swaps[<Py_ssize_t> number]
            swap.cut = PyBytes_GET_SIZE(old)
            swap.new = <const uint8_t*> PyBytes_AS_STRING(new)
            swap.size = PyBytes_GET_SIZE(new)
        return 0

    cdef const Swap* find(self, const uint8_t* key, Py_ssize_t size) noexcept nogil:
        """What is swapped at the beginning of a key; NULL: it stays as it is."""
        cdef Py_ssize_t number = self.olds.longest(key, size)
        return &self.swaps[number] if number >= 0 else NULL

    cdef bint meets(self, const uint8_t* key, Py_ssize_t size, const uint8_t* prefix, Py_ssize_t length) noexcept nogil:
        """Whether a key is given a name that begins with *prefix*."""
        cdef const Swap* swap = self.find(key, size)
        cdef Py_ssize_t common
        if swap == NULL:
            return size >= length and memcmp(key, prefix, length) == 0
        if size - swap.cut + swap.size < length:
            return False
        common = min(swap.size, length)
        return memcmp(swap.new, prefix, common) == 0 and memcmp(key + swap.cut, prefix + common, length - common) == 0

    cdef int64_t database(self, int64_t db) noexcept:
        """The database in which that of the source is written; what is not known (-1) stays so."""
        if not self.databases or db < 0:
            return db
        if self.all_to >= 0:
            return self.all_to
        return self.to.get(db, db)

    def renamed(self, bytes key not None):
        cdef const Swap* swap = self.find(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return key if swap == NULL else swap.new[:swap.size] + key[swap.cut:]

    def origins(self, bytes key not None):
        cdef list found = [key] if self.renamed(key) == key else []
        cdef bytes name
        for old, new in self.texts:
            if key.startswith(new) and new != old:
                name = old + key[len(new):]
                if name not in found and self.renamed(name) == key:
                    found.append(name)
        return found

    def origin(self, bytes key not None):
        cdef list found = self.origins(key)
        return found[0] if len(found) == 1 else None

    def reserved(self, bytes key not None):
        if not self.own:
            return False
        return self.meets(
            <const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
            <const uint8_t*> PyBytes_AS_STRING(self.own), PyBytes_GET_SIZE(self.own),
        )

    def database_of(self, int64_t db):
        return self.database(db)

    def databases_to(self, int64_t db):
        if self.all_to >= 0:
            return None if db == self.all_to else ()
        found = {old for old, new in self.to.items() if new == db}
        if db not in self.to:
            found.add(db)
        return tuple(sorted(found))

    def shared(self):
        found = {db: self.databases_to(db) for db in set(self.to.values())}
        return {db: origins for db, origins in found.items() if len(origins) > 1}

    def image(self):
        prefixes = {new for _, new in self.texts}
        return tuple(sorted(prefixes)) if self.olds.every >= 0 and b"" not in prefixes else (b"",)
