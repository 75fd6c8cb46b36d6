# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The decoder's state, which decoder.pxd lists and explains, and where it stands when something is wrong."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint64_t

from portd.errors import DecodeError, UnsupportedRdb

from portd.kernel.encodings cimport E_NONE, K_INTSET, K_LISTPACK, K_ZIPLIST, encoding_of, layout_of
from portd.kernel.lzf cimport LzfStream
from portd.kernel.reader cimport R_OK

# Names in errors; the units that read these things have the tables.
cdef list STATE_NAMES = [None] * STATES
cdef list STREAM_STATE_NAMES = [None] * STREAM_STATES
cdef dict OPCODE_NAMES = {}             # (byte, valkey) -> name


cdef class Decoder:
    def __cinit__(self, *_, Py_ssize_t chunk_bytes=DEFAULT_CHUNK, **__):
        self.chunk = chunk_bytes
        self.capacity = 2 * chunk_bytes + READ_AHEAD
        self.buffer = <unsigned char*>PyMem_Malloc(self.capacity)
        if self.buffer == NULL:
            raise MemoryError
        self.lzf = LzfStream()
        self.templates = {}
        self.aux_fields = {}
        self.dropped = []
        self.plain = self.db_taken = True
        forget_key(self)

    def __dealloc__(self):
        cdef int i
        PyMem_Free(self.buffer)
        for i in range(ITEMS):
            PyMem_Free(self.scratch[i])
        PyMem_Free(self.blob)
        PyMem_Free(self.names)
        PyMem_Free(self.name)
        PyMem_Free(self.renamed)

    # -- errors --------------------------------------------------------------------------------------------------------

    cdef dict _where(self):
        inside = self.key.encoding != E_NONE and self.state not in (ST_MAGIC, ST_CHECKSUM, ST_END)
        return {
            "part": self._part(),
            "offset": self.base + self.start,
            "db": self.db,
            "key": self._source_name() if inside and self.key.name != NULL else None,
            "type": layout_of(self.key.encoding).name.decode() if inside else None,
        }

    cdef bytes _source_name(self):
        """Of the key in progress, as the source has it."""
        if self.key.name != NULL and self.key.name == self.renamed:
            return self.out.origin[:self.out.origin_size]
        return self.key.name[:self.key.size] if self.key.name != NULL else b""

    cdef str _part(self):
        """What is being read: the name of the state, or of what stands at the window's beginning; None behind the end."""
        cdef int byte
        if self.state == ST_STREAM:
            return STREAM_STATE_NAMES[self.stream_state]
        if self.state == ST_CELLS:
            container = {K_LISTPACK: "listpack", K_ZIPLIST: "ziplist", K_INTSET: "intset"}.get(self.container, "zipmap")
            return f"an entry of a {container}" if self.opened else f"the header of a {container}"
        if self.state == ST_HEAD and self.start < self.stop:
            byte = self.buffer[self.start]
            if byte >= 0xF2:
                return f"opcode {OPCODE_NAMES.get((byte, self.valkey), byte)}"
            if encoding_of(byte, self.valkey) != E_NONE:
                return f"a key of type {layout_of(encoding_of(byte, self.valkey)).name.decode()}"
        return STATE_NAMES[self.state]

    cdef int _fail(self, str message, object error=DecodeError) except -1:
        hint = None if error is not DecodeError else (
            "the snapshot is corrupt or this build misreads it; nothing behind this byte was applied"
        )
        raise error(message, hint=hint, **self._where())

    cdef int _unsupported(self, str message) except -1:
        return self._fail(message, UnsupportedRdb)


# -- keys --------------------------------------------------------------------------------------------------------------


cdef int forget_key(Decoder self) except -1:
    clear_key(&self.key)
    self.meta = b""
    return 0


cdef int key_done(Decoder self) except -1:
    if self.dropping:
        note_dropped(self, self.drop_from)
        self.dropping = False
    forget_key(self)
    self.state = ST_HEAD
    return R_OK


cdef int note_dropped(Decoder self, uint64_t begin) except -1:
    """What stands from there up to here was left out."""
    cdef uint64_t end = self.base + self.start
    if self.dropped and self.dropped[len(self.dropped) - 1][1] == begin:
        begin = self.dropped.pop()[0]
    self.dropped.append((begin, end))
    return 0


cdef int end_value(Decoder self) except -1:
    """The value in progress was told to its end."""
    self.key.bytes = self.base + self.start - self.value_offset
    self.to.end(&self.key)
    return key_done(self)


# -- names -------------------------------------------------------------------------------------------------------------


cdef void name_state(int state, str name):
    STATE_NAMES[state] = name


cdef void name_stream_state(int state, str name):
    STREAM_STATE_NAMES[state] = name


cdef void name_opcode(int byte, bint valkey, str name):
    OPCODE_NAMES[byte, valkey] = name
