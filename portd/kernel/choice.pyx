# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Which keys of a snapshot are taken, and what they are called from here on: the one place where rules meet keys.

It stands between the decoder and whoever hears of a key, so that what is written, shown, counted or compared is chosen by the
same rules. Behind `choose` a key has the name and the database of the target; `Decoder.origin` remembers those of the source.
"""

from cpython.mem cimport PyMem_Realloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.kernel.decoder cimport Decoder
from portd.kernel.encodings cimport layout_of
from portd.kernel.mapping cimport Mapping, Swap
from portd.kernel.rules cimport R_KEY, R_SIZE, R_TAKEN
from portd.kernel.slots cimport slot_of


cdef int set_rules(Decoder self, rules, mapping, frozenset blocked) except -1:
    self.rules = rules
    self.mapping = mapping
    self.blocked = blocked
    self.plain = rules is None and mapping is None
    return enter_database(self, self.db)


cdef int enter_database(Decoder self, int db) except -1:
    """What follows is in that database of the source."""
    self.db = self.to_db = db
    if self.rules is not None:
        self.db_taken = self.rules.take_database(db)
    if self.mapping is not None:
        self.to_db = <int> self.mapping.database(db)
        self.db_blocked = self.db_taken and db in self.blocked
    return 0


cdef bint choose(Decoder self) except -1:
    """Whether the key in progress is taken; it has the target's name then. What needs its size is for `fit`."""
    cdef int why
    if self.slots and self.slots[slot_of(<const uint8_t*> self.key.name, self.key.size)]:  # half of it
        self.keys_filtered += 1
        return False
    if self.covers is not None and not self.covers(self.db, <bytes> self.key.name[:self.key.size]):
        self.left_out[<int> R_KEY] += 1
        self.keys_filtered += 1
        return False
    if self.rules is not None:
        why = self.rules.judge(&self.key, self.db_taken, self.out.now_ms)
        if why != R_TAKEN:
            self.left_out[why] += 1
            self.keys_filtered += 1
            return False
    if self.mapping is None:
        return True
    if self.db_blocked:
        self.out.keys_failed += 1
        self.out.refuse(&self.key, layout_of(self.key.encoding).name.decode(), "database: map_db puts another one there")
        return False
    if self.own_size and self.key.size >= self.own_size and memcmp(self.key.name, <const char*> self.own, self.own_size) == 0:
        self.keys_own += 1
        self.keys_filtered += 1
        return False
    _rename(self, self.mapping.find(<const uint8_t*> self.key.name, self.key.size))
    return True


cdef int _rename(Decoder self, const Swap* swap) except -1:
    cdef Py_ssize_t size
    cdef unsigned char* grown
    self.out.origin = self.key.name
    self.out.origin_size = self.key.size
    self.out.origin_db = self.db
    self.key.db = self.to_db
    if swap == NULL:
        return 0
    size = self.key.size - swap.cut + swap.size
    if self.renamed_capacity < size + 1:
        grown = <unsigned char*> PyMem_Realloc(self.renamed, size + 1)
        if grown == NULL:
            raise MemoryError
        self.renamed = grown
        self.renamed_capacity = size + 1
    memcpy(self.renamed, swap.new, swap.size)
    memcpy(self.renamed + swap.size, self.key.name + swap.cut, self.key.size - swap.cut)
    self.key.name = self.renamed
    self.key.size = size
    return 0


cdef bint fit(Decoder self, uint64_t size) except -1:
    """Whether a value of that size, 0 for larger than can be told, is taken."""
    if self.rules is None or not self.rules.sized or self.rules.fits(size):
        return True
    self.left_out[<int> R_SIZE] += 1
    self.keys_filtered += 1
    return False

