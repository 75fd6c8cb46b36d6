from libc.stdint cimport int64_t, uint64_t

from portd.kernel.encodings cimport Layout
from portd.kernel.handler cimport Handler, Item, Key
from portd.kernel.reader cimport Cursor


cdef enum:
    DEFAULT_CHUNK = 1 << 20
    ITEMS = 4                       # strings of one element that are held at once
    READ_AHEAD = 262144             # window room beyond two chunks


cdef enum State:
    ST_MAGIC = 0
    ST_HEAD                         # an opcode or a key
    ST_VALUE                        # the key is known: how will its value be told?
    ST_START                        # prefix and counts of a value told by elements
    ST_ITEMS                        # elements that stand directly in the snapshot
    ST_NODES                        # next node of a quicklist
    ST_CELLS                        # elements in a container
    ST_PARTS                        # a long item goes through
    ST_LARGE                        # what follows a long item in its element
    ST_STREAM                       # see StreamState
    ST_MODULE                       # module items, stepped over
    ST_ARRAY
    ST_TEMPLATE                     # values of a hash template
    ST_CHECKSUM
    ST_END


cdef enum PartPurpose:
    PP_SKIP = 0                     # nobody wants it
    PP_STRING                       # the value of a string key
    PP_ITEM                         # an item of an element: ST_LARGE goes on
    PP_ENTRY                        # an item of a stream entry: SS_FIELDS goes on
    PP_KEY                          # a key name too long to hold


cdef class Window:
    cdef Handler out                    # makes something of the values; `ready` when it has some
    cdef Handler to                     # who is told of the value in progress
    cdef Handler entry_to               # who is told of the stream entry in progress
    cdef Handler nothing
    cdef Py_ssize_t chunk               # longest string that is held whole, bytes
    cdef unsigned char* buffer
    cdef Py_ssize_t start               # first byte not consumed
    cdef Py_ssize_t stop                # behind the last byte fed
    cdef Py_ssize_t capacity
    cdef uint64_t base                  # snapshot offset of buffer[0]
    cdef Py_ssize_t summed              # bytes of the window that are in crc already
    cdef uint64_t crc
    # where decoding stands
    cdef int state
    cdef int db
    cdef Key key
    cdef const Layout* layout           # of the key's value
    cdef uint64_t left                  # elements, nodes or values still to come
    cdef uint64_t done                  # elements told
    # the strings of the element in progress
    cdef Item[ITEMS] items
    cdef unsigned char* scratch[ITEMS]
    cdef Py_ssize_t[ITEMS] scratch_capacity
    cdef char[ITEMS][32] digits

    cdef Py_ssize_t take_in(self, const unsigned char* data, Py_ssize_t size) noexcept
    cdef void _checksum(self) noexcept
    cdef int _end_value(self) except -1
    cdef dict _where(self)
    cdef int _fail(self, str message, object error=*) except -1
    cdef int _unsupported(self, str message) except -1
    cdef int _room(self, int i, Py_ssize_t size) except -1
    cdef int _item(self, Cursor* c, int i) except -2
    cdef int _packed_item(self, Cursor* c, const unsigned char* begin, Item* item, uint64_t packed, int i) except -2
    cdef int _number(self, Cursor* c, uint64_t* value) except -2

    cdef inline Cursor _cursor(self) noexcept:
        cdef Cursor c
        c.p = self.buffer + self.start
        c.end = self.buffer + self.stop
        return c

    cdef inline void _consume(self, Cursor* c) noexcept:
        self.start = c.p - self.buffer
