from libc.stdint cimport int64_t, uint64_t

from portd.kernel.handler cimport Handler, Item, Key
from portd.kernel.writer cimport RespWriter


cdef enum:
    CSV_FIELD = 0       # columns behind db, type and key
    CSV_VALUE
    CSV_INDEX
    CSV_MEMBER
    CSV_SCORE
    CSV_EXPIREAT
    CSV_FIELD_EXPIREAT
    CSV_ID
    CSV_RECORD
    CSV_COLUMNS


cdef class LineWriter(Handler):
    cdef RespWriter out
    cdef RespWriter head                # what each line of the key begins with
    cdef RespWriter cell                # CSV: details of a record
    cdef object parts                   # deque of what is ready to be written
    cdef Py_ssize_t part_bytes
    cdef uint64_t chunk_bytes
    cdef bint csv
    cdef bint functions                 # libraries are told
    cdef bint fields                    # of the file's head are
    # the key being told
    cdef Key* key
    cdef int collection
    # counters
    cdef uint64_t keys_told
    cdef uint64_t lines

    cdef int _tell(self, Key* key, int collection) except -1
    cdef int _begin_key(self, Key* key) except -1
    cdef int _line(self) except -1
    cdef int _end_line(self) except -1
    cdef int _cut_if_full(self) except -1
    cdef int _text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _json_text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _csv_text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _base64(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _number(self, RespWriter out, int64_t value) except -1
    cdef int _unsigned(self, RespWriter out, uint64_t value) except -1
    cdef int _id(self, RespWriter out, uint64_t ms, uint64_t seq) except -1
    cdef int _score(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _put(self, RespWriter out, const char* text) except -1
    cdef int _end_row(self) except -1
    cdef int _row_end(self, int done) except -1
    cdef int _record_begin(self, const char* name) except -1
    cdef int _record_end(self) except -1
    cdef int _pair(self, RespWriter out, const char* name) except -1
    cdef int _commas(self, int n) except -1
    cdef bytes _cell_text(self, Item* item)
