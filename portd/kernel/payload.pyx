# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""Payloads of RESTORE and FUNCTION RESTORE in the stream, which carry the RDB version of the source.

A target refuses a version that it does not load, though it takes most values of it: these get its own version, as those of
the snapshot do. A value in an encoding that it does not know becomes what the snapshot decoder makes of it. The newest
sources leave the checksum out, which older targets do not take (cluster.c:createDumpPayload, verifyDumpPayload).
"""

from libc.stdint cimport int64_t, uint16_t, uint8_t, uint64_t
from libc.string cimport memcpy

from portd.errors import PortdError

from portd.kernel.crc64 cimport crc64_update
from portd.kernel.encodings cimport C_STREAM, E_NONE, encoding_of, layout_of


cdef enum:
    FIRST_OPCODE = 200  # smaller type bytes are of values
    FIRST_VALKEY = 80  # RDB versions from here on are Valkey's
    LAST_COMMON = 11  # up to here both families agree
    PACKED = 16  # bytes of a stream for each of its payload


cdef str OF_STREAMS = "stream "  # types of dead letters for what a stream goes on without


cdef inline int version_of(const uint8_t* footer) noexcept:
    return footer[0] | footer[1] << 8


cdef bint accepts(Dialect dialect, const uint8_t* footer) noexcept:
    """Whether the target takes a payload that ends in *footer*."""
    cdef int version = version_of(footer)
    cdef uint64_t crc = 0
    memcpy(&crc, footer + 2, 8)
    if crc == 0 or version > dialect.footer:
        return False
    return not dialect.valkey or version <= LAST_COMMON or version >= FIRST_VALKEY


cdef void write_footer(Dialect dialect, uint64_t crc, uint8_t* footer) noexcept:
    """Writes the target's own footer; *crc* is that of all before it."""
    cdef uint16_t version = <uint16_t> dialect.footer
    memcpy(footer, &version, 2)
    crc = crc64_update(crc, footer, 2)
    memcpy(footer + 2, &crc, 8)


cdef int fate_of(Dialect dialect, const uint8_t* payload, Py_ssize_t size, bint function) noexcept:
    """What becomes of a whole payload; *function*: of FUNCTION RESTORE."""
    cdef int encoding
    if size <= FOOTER or accepts(dialect, payload + size - FOOTER):
        return AS_IT_CAME
    if function or payload[0] >= FIRST_OPCODE:
        return NEW_FOOTER
    encoding = encoding_of(payload[0], version_of(payload + size - FOOTER) >= FIRST_VALKEY)
    return NEW_FOOTER if encoding == E_NONE or dialect.takes(encoding) else OTHER_FORM


cdef tuple other_form(Dialect dialect, bytes key, bytes payload):
    """Commands that make a value anew, how many they are, the expiry times of hash fields that they lack, and what else of streams.

    None where the target cannot hold it, or the payload is wrong: it has to say so itself.
    """
    from portd.kernel.snapshot import SnapshotDecoder

    cdef int version = payload[len(payload) - FOOTER] | payload[len(payload) - FOOTER + 1] << 8
    magic = b"VALKEY%03d" if version >= FIRST_VALKEY else b"REDIS%04d"
    size = len(key).to_bytes(4, "big")
    file = b"%s\xfe\x00%c\x80%s%s%s\xff" % (
        magic % version, payload[0], size, key, payload[1:len(payload) - FOOTER],
    ) + bytes(8)
    # A whole stream is restored, which keeps what no command carries; the nodes of the largest ones are packed.
    plain = PACKED * len(file) if layout_of(encoding_of(payload[0], version >= FIRST_VALKEY)).collection == C_STREAM else len(file)
    decoder = SnapshotDecoder(dialect, chunk_bytes=max(plain, 64 * 1024))
    batches = []
    try:
        while file:
            file = file[decoder.feed(file):]
            while (batch := decoder.next_batch()) is not None:
                batches.append(batch)
        decoder.finish()
    except PortdError:
        return None
    counters = decoder.statistics()
    refused = decoder.take_dead_letters()
    unrecorded = sum(letter.type.startswith(OF_STREAMS) for letter in refused)
    if len(refused) > unrecorded or not batches:
        return None
    data = b"".join(bytes(batch.data) for batch in batches)
    return data, sum(batch.replies for batch in batches), counters["field_ttl_dropped"], unrecorded
