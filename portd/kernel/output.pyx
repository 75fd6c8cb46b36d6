# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Commands become batches: what is common to all values.

The contract of batches with the lanes is in batch.pyi. What writes the commands is derived from it: elementcommands.pyx,
streamcommands.pyx and at last commands.pyx.
"""

cimport cython
from collections import deque

from libc.stdint cimport uint64_t

from portd.kernel.batch cimport CLOSE, WHOLE, Batch
from portd.kernel.dialect cimport Dialect
from portd.kernel.encodings cimport C_LIST
from portd.kernel.handler cimport Handler, Key
from portd.kernel.writer cimport RespWriter


cdef enum:
    LETTERS_KEPT = 1000             # dead letters held until they are taken; more are only counted
    LETTERS_BYTES = 1 << 20         # of their keys


@cython.final
cdef class DeadLetter:
    """A value that did not reach the target."""

    def __repr__(self):
        return f"DeadLetter(db={self.db}, type={self.type!r}, offset={self.offset}, reason={self.reason!r})"


cdef class CommandOutput(Handler):
    """The batch being filled, those that are finished, and what could not be written."""

    def __cinit__(
        self, Dialect dialect not None, Py_ssize_t batch_bytes, Py_ssize_t command_bytes, uint64_t command_elements,
        Py_ssize_t chunk_bytes, **_,
    ):
        self.dialect = dialect
        self.out = RespWriter(batch_bytes + command_bytes)
        self.batches = deque()
        self.batch_bytes = self.small_bytes = batch_bytes
        self.command_bytes = command_bytes
        self.small_name = command_bytes // 16
        self.command_elements = command_elements
        self.chunk_bytes = chunk_bytes
        self.letters = []
        self.scripts = []
        self.kind = WHOLE

    # -- batches -------------------------------------------------------------------------------------------------------

    cdef object pop(self):
        batch = self.batches.popleft() if self.batches else None
        self.ready = bool(self.batches)
        return batch

    cdef int cut(self, bint part) except -1:
        """Ends the batch being filled; *part*: in the middle of a command."""
        cdef Batch batch
        if self.out.used == 0 and self.kind != CLOSE:
            self.batch_offset = self.offset
            return 0
        batch = Batch.__new__(Batch)
        batch.data = self.out.take()
        batch.replies = self.replies
        batch.db = 0 if self.lacking else self.db      # functions are the same in all of them
        batch.keys = self.keys
        batch.kind = self.kind
        batch.fence = self.fence if self.kind != WHOLE else 0
        batch.key = self.key.name[:self.key.size] if self.kind != WHOLE else b""
        batch.offset = self.batch_offset
        batch.base = self.batch_base
        batch.part = part
        self.batches.append(batch)
        self.ready = True
        self.batches_total += 1
        self.replies = self.keys = 0
        self.batch_offset = self.offset
        self.batch_base = self.told if self.big and self.collection == C_LIST else 0
        return 0

    # -- dead letters --------------------------------------------------------------------------------------------------

    cdef int refuse(self, Key* key, str type_name, str reason) except -1:
        """Counts and keeps a value that cannot reach the target."""
        cdef DeadLetter letter
        self.letters_total += 1
        if not self.letters:
            self.letters_bytes = 0
        if len(self.letters) < LETTERS_KEPT and self.letters_bytes < LETTERS_BYTES:
            letter = DeadLetter.__new__(DeadLetter)
            letter.db = self.db
            letter.key = key.name[:key.size] if key != NULL else b""
            letter.type = type_name
            letter.offset = key.offset if key != NULL else self.offset
            letter.reason = reason
            letter.source_db = self.origin_db if key != NULL else -1
            letter.source_key = self.origin[:self.origin_size] if letter.source_db >= 0 else b""
            self.letters_bytes += len(letter.key)
            self.letters.append(letter)
        return 0

    # -- between keys --------------------------------------------------------------------------------------------------

    cdef int select(self, int db) except -1:
        self._close_run()
        self.cut(False)
        self.db = db
        self.lacking = 0 < self.dialect.databases <= db
        return 0

    cdef int finish(self) except -1:
        self._close_run()
        return self.cut(False)

    # -- figures -------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t bound(self) noexcept:
        return 12 * (self.batch_bytes + self.command_bytes) + 4 * self.chunk_bytes + (16 << 20)

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes held beside the batches."""
        return self.out.capacity

    cdef int add_statistics(self, dict counters) except -1:
        counters.update({
            "keys_expired": self.keys_expired,
            "keys_postponed": self.keys_postponed,
            "elements": self.elements_total,
            "batches": self.batches_total,
            "dead_letters": self.letters_total,
            "output_used": self.out.used,
            "idle_dropped": self.idle_dropped,
            "freq_dropped": self.freq_dropped,
            "field_ttl_dropped": self.field_ttl_dropped,
            "stream_meta_dropped": self.stream_meta_dropped,
            "functions": self.functions,
        })
        return 0
