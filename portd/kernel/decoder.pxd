# All that the snapshot decoder knows: its states and its state. Nothing else is kept between two calls.
#
# The functions that work on it stand in units one above the other; a unit calls those below it only. Each .pxd lists
# what a unit offers, keys.pyx has the table of states and the functions that read them:
#
#   snapshot        what Python sees: SnapshotDecoder, a Decoder with methods
#   keys            the steps; keys, and how their values begin
#   choice          which keys are taken, and what they are called
#   opcodes         magic, opcodes (their table), checksum
#   streams, rare   streams (the table of their states); modules, arrays, templated hashes
#   elements        elements of collections
#   blob            containers inside strings, long items in parts
#   window          strings and numbers
#   decoder         this: the state, and where it stands when something is wrong
#
# Functions and no methods, for Cython wants all methods of a class in one file; a chain of derived classes, one a file,
# would hide where a method is. A call from unit to unit costs no more than a method's, one inside of a unit less.

from libc.stdint cimport int64_t, uint64_t

from portd.kernel.containers cimport Cell
from portd.kernel.encodings cimport E_NONE, Layout
from portd.kernel.handler cimport Handler, Item, Key
from portd.kernel.lzf cimport LzfStream
from portd.kernel.mapping cimport Mapping
from portd.kernel.measure cimport Measure
from portd.kernel.reader cimport Cursor
from portd.kernel.rules cimport REASONS_COUNT, Rules


cdef enum:
    DEFAULT_CHUNK = 1 << 20
    ITEMS = 4                       # strings of one element that are held at once
    READ_AHEAD = 262144             # window room beyond two chunks


cdef enum State:                    # the table in keys.pyx tells who reads them, and their names in errors
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
    STATES


cdef enum StreamState:              # the table in streams.pyx
    SS_NODE = 0                     # master id and listpack
    SS_MASTER                       # count, deleted, number of fields
    SS_NAMES                        # the master entry's field names
    SS_ENTRY                        # flags and id
    SS_COUNT                        # number of fields of an entry with its own names
    SS_FIELDS
    SS_CLOSE                        # the entry's cell count
    SS_META
    SS_GROUP
    SS_PENDING
    SS_CONSUMERS
    SS_CONSUMER
    SS_OWNED
    SS_NACKED
    SS_DEDUP
    SS_PRODUCER
    SS_MESSAGE
    SS_TOTALS
    STREAM_STATES


cdef enum PartPurpose:
    PP_SKIP = 0                     # nobody wants it
    PP_STRING                       # the value of a string key
    PP_ITEM                         # an item of an element: ST_LARGE goes on
    PP_ENTRY                        # an item of a stream entry: SS_FIELDS goes on
    PP_KEY                          # a key name too long to hold


cdef class Decoder:
    cdef Handler out                    # makes something of the values; `ready` when it has some
    cdef Handler to                     # who is told of the value in progress
    cdef Handler entry_to               # who is told of the stream entry in progress
    cdef Handler nothing
    # window.pyx: the bytes, and the strings of the element in progress
    cdef Py_ssize_t chunk               # longest string that is held whole, bytes
    cdef unsigned char* buffer
    cdef Py_ssize_t start               # first byte not consumed
    cdef Py_ssize_t stop                # behind the last byte fed
    cdef Py_ssize_t capacity
    cdef uint64_t base                  # snapshot offset of buffer[0]
    cdef Py_ssize_t summed              # bytes of the window that are in crc already
    cdef uint64_t crc
    cdef Item[ITEMS] items
    cdef unsigned char* scratch[ITEMS]
    cdef Py_ssize_t[ITEMS] scratch_capacity
    cdef char[ITEMS][32] digits
    # where decoding stands
    cdef int state
    cdef int db
    cdef Key key
    cdef const Layout* layout           # of the key's value
    cdef uint64_t left                  # elements, nodes or values still to come
    cdef uint64_t done                  # elements told
    # blob.pyx: the long item in progress
    cdef int part_purpose
    cdef int part_form
    cdef bint part_in_blob
    cdef uint64_t part_size
    cdef uint64_t part_left
    cdef uint64_t part_packed
    cdef Py_ssize_t part_tail
    cdef int after_part                 # state to go on with
    cdef int large_at                   # next op or cell of the element with a long item
    cdef LzfStream lzf
    # blob.pyx: the container in progress
    cdef int container
    cdef unsigned char* blob
    cdef Py_ssize_t blob_start
    cdef Py_ssize_t blob_stop
    cdef Py_ssize_t blob_capacity
    cdef Py_ssize_t blob_next           # where the cells taken end
    cdef uint64_t blob_left             # plain bytes not yet in blob
    cdef uint64_t blob_packed           # compressed bytes not yet read
    cdef int blob_form
    cdef uint64_t blob_size
    cdef int int_width
    cdef uint64_t int_left
    cdef bint opened                    # the container's header was read
    cdef Cell cell
    cdef int64_t[ITEMS] number          # value of cell i
    cdef bint[ITEMS] is_number
    # elements.pyx
    cdef int64_t minimum                # of E_HASH_TTL
    cdef uint64_t large_number          # number that came before the strings of an element with a long item
    # rare.pyx
    cdef dict templates                 # number -> field names
    cdef Py_ssize_t templates_size      # bytes
    cdef Py_ssize_t template_size       # bytes of the value's own names
    cdef list template                  # field names of the value in progress
    cdef Py_ssize_t template_at         # next of them
    cdef int template_step
    cdef bytes slot_text                # of the float in item 1
    cdef bint array_seeks               # an insert index was stored
    # streams.pyx
    cdef int stream_state
    cdef int stream_version
    cdef uint64_t master_ms             # id that a node's entries are relative to
    cdef uint64_t master_seq
    cdef uint64_t entry_ms
    cdef uint64_t entry_seq
    cdef uint64_t entries               # of the node, still to come
    cdef uint64_t fields_left           # of the entry
    cdef bint same_fields               # the entry has the master's field names
    cdef bint name_turn                 # a name is next, not a value
    cdef unsigned char* names           # the master's: length as u64, bytes, ...
    cdef Py_ssize_t names_size
    cdef Py_ssize_t names_capacity
    cdef Py_ssize_t names_at
    cdef uint64_t names_count
    cdef bint names_kept                # False: the key was given up, only values are stepped over
    cdef uint64_t groups                # still to come, as the following
    cdef uint64_t consumers
    cdef uint64_t ids
    cdef uint64_t producers
    # opcodes.pyx: what opcodes say of the file and of the key that follows them
    cdef bint verify                    # compare the checksum
    cdef int version
    cdef bint valkey
    cdef dict aux_fields
    cdef bytearray slots                # 1 for each slot that was being imported; None when none was
    cdef bytes meta                     # KEY_META of the next key
    cdef uint64_t keys_announced
    cdef uint64_t modules_aux
    cdef uint64_t slot_infos            # of a Redis cluster node, one for each slot with keys
    # keys.pyx: the key in progress
    cdef uint64_t keys
    cdef uint64_t keys_filtered
    cdef unsigned char* name
    cdef Py_ssize_t name_capacity
    cdef uint64_t value_offset
    cdef bint planned
    cdef int plan
    cdef Measure measure
    # choice.pyx: which keys are taken, and what they are called
    cdef bint plain                     # all are, as they are; neither rules nor slots in import
    cdef Rules rules                    # None: all
    cdef object covers                  # tells whether a key counts by its database and name; None: each does
    cdef bint db_taken                  # by the rules
    cdef Mapping mapping                # None: nothing is renamed or put elsewhere
    cdef int to_db                      # what is told of db: its number in the target
    cdef frozenset blocked              # databases in whose place another one is put
    cdef bint db_blocked
    cdef bytes own                      # prefix of names that are ours alone
    cdef Py_ssize_t own_size            # 0: there are none
    cdef uint64_t keys_own              # of the source that begin with it, left out before they were renamed
    cdef unsigned char* renamed         # name of the key in progress
    cdef Py_ssize_t renamed_capacity
    cdef bint sifting                   # what is left out is noted
    cdef bint dropping                  # the key in progress is
    cdef uint64_t drop_from             # snapshot offset
    cdef list dropped                   # (from, to) of what was left out: snapshot offsets
    cdef bint chosen                    # the key in progress was; its size may still be asked for
    cdef Measure sizing                 # of a value whose size is asked for
    cdef uint64_t[<int>REASONS_COUNT] left_out  # keys, by why

    cdef dict _where(self)
    cdef bytes _source_name(self)
    cdef str _part(self)
    cdef int _fail(self, str message, object error=*) except -1
    cdef int _unsupported(self, str message) except -1

    cdef inline Cursor _cursor(self) noexcept:
        cdef Cursor c
        c.p = self.buffer + self.start
        c.end = self.buffer + self.stop
        return c

    cdef inline void _consume(self, Cursor* c) noexcept:
        self.start = c.p - self.buffer


cdef inline bint is_field_expiry(uint64_t ms) noexcept:
    """A time of a hash field, or a distance from one, that servers take, unix ms: ebuckets.h:EB_EXPIRE_TIME_MAX."""
    return ms <= <uint64_t>1 << 48


cdef inline void clear_key(Key* key) noexcept:
    key.expire_ms = key.idle = -1
    key.freq = -1
    key.encoding = E_NONE
    key.name = NULL
    key.size = 0
    key.elements = 0
    key.bytes = 0
    key.module = 0
    key.offset = <uint64_t>-1


cdef int forget_key(Decoder self) except -1
cdef int key_done(Decoder self) except -1
cdef int note_dropped(Decoder self, uint64_t begin) except -1
cdef int end_value(Decoder self) except -1
cdef void name_state(int state, str name)
cdef void name_stream_state(int state, str name)
cdef void name_opcode(int byte, bint valkey, str name)
