# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Which of many prefixes a key begins with: the longest one. Nothing is allocated for a key.

They are sorted. Of those that a key begins with, every one begins the greatest one that is not above the key, too: one
search, among those that begin with the key's first byte, finds that, and the ones that it begins with are linked.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t
from libc.string cimport memcmp


@cython.final
cdef class Prefixes:
    def __cinit__(self, texts):
        self.texts = sorted(set(texts))
        self._fill()

    def __dealloc__(self):
        PyMem_Free(self.entries)

    cdef int _fill(self) except -1:
        cdef Prefix* entry
        cdef bytes text
        cdef list open = []  # numbers of those that the one before begins with, itself the last
        self.count = len(self.texts)
        self.every = 0 if self.count and not self.texts[0] else -1
        self.entries = <Prefix*> PyMem_Calloc(self.count + 1, sizeof(Prefix))
        if self.entries == NULL:
            raise MemoryError
        for number, text in enumerate(self.texts):
            while open and not text.startswith(self.texts[open[len(open) - 1]]):
                open.pop()
            entry = &self.entries[<Py_ssize_t> number]
            entry.text = <const uint8_t*> PyBytes_AS_STRING(text)
            entry.size = PyBytes_GET_SIZE(text)
            entry.shorter = open[len(open) - 1] if open else -1
            open.append(number)
        for byte in range(257):
            self.first[<int> byte] = sum([not text or text[0] < byte for text in self.texts])
        return 0

    cdef Py_ssize_t longest(self, const uint8_t* key, Py_ssize_t size) noexcept nogil:
        """The number of the longest one that a key begins with; -1: it begins with none."""
        cdef Py_ssize_t at = self.every
        cdef Py_ssize_t low, high, middle
        cdef const Prefix* entry
        cdef int order
        if size > 0:
            low, high = self.first[key[0]], self.first[key[0] + 1]
            if low < high:
                while low < high:  # for the first one above the key
                    middle = (low + high) // 2
                    entry = &self.entries[middle]
                    order = memcmp(entry.text, key, min(entry.size, size))
                    if order > 0 or (order == 0 and entry.size > size):
                        high = middle
                    else:
                        low = middle + 1
                at = low - 1
        while at >= 0:
            entry = &self.entries[at]
            if entry.size <= size and memcmp(entry.text, key, entry.size) == 0:
                return at
            at = entry.shorter
        return -1
