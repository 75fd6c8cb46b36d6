# The vocabulary of value encodings: one number per layout, whatever byte a family uses for it.
#
# `Encoding` is our own numbering because Redis and Valkey give bytes 22 and 23 different meanings; `LAYOUTS` in
# encodings.pyx is the table that the decoder walks.

from libc.stdint cimport uint8_t, uint64_t


cdef enum Collection:
    C_STRING = 0
    C_LIST
    C_SET
    C_ZSET
    C_HASH
    C_STREAM
    C_MODULE
    C_ARRAY
    C_OTHER                 # RESTORE or nothing


cdef enum Container:
    K_NONE = 0
    K_LISTPACK
    K_ZIPLIST
    K_INTSET
    K_ZIPMAP


cdef enum Shape:
    S_STRING = 0            # one string
    S_ITEMS                 # prefix, count, count x pattern
    S_BLOB                  # prefix, one string that is a container
    S_NODES                 # count, count x [container length] + blob
    S_STREAM
    S_MODULE
    S_ARRAY
    S_TEMPLATE
    S_NUMBER                # one length


cdef struct Layout:
    const char* name        # as errors and /debug/memory show it
    int collection
    int shape
    int container           # of the blob or of the nodes
    const char* prefix      # before the count: see pattern
    const char* pattern     # an element: s string, l length, d 8 bytes, z score as text
    int strings             # strings in the pattern or cells per element in a container
    int redis               # lowest RDB version of Redis whose RESTORE takes it, 0 never
    int valkey              # the same for Valkey


cdef enum Encoding:
    E_NONE = -1
    E_STRING = 0
    E_LIST
    E_SET
    E_ZSET
    E_HASH
    E_ZSET_2
    E_MODULE
    E_HASH_ZIPMAP
    E_LIST_ZIPLIST
    E_SET_INTSET
    E_ZSET_ZIPLIST
    E_HASH_ZIPLIST
    E_LIST_QUICKLIST
    E_STREAM_1
    E_HASH_LISTPACK
    E_ZSET_LISTPACK
    E_LIST_QUICKLIST_2
    E_STREAM_2
    E_SET_LISTPACK
    E_STREAM_3
    E_HASH_TTL_RC           # Redis 7.4 RC, byte 22
    E_HASH_LISTPACK_TTL_RC  # Redis 7.4 RC, byte 23
    E_HASH_TTL_VALKEY       # Valkey 9, byte 22
    E_HASH_TTL              # Redis 7.4, byte 24
    E_HASH_LISTPACK_TTL     # Redis 7.4, byte 25
    E_STREAM_4
    E_STREAM_5
    E_ARRAY
    E_TEMPLATE_LISTPACK
    E_TEMPLATE_LISTPACK_REF
    E_TEMPLATE_ITEMS
    E_TEMPLATE_ITEMS_REF
    E_GCRA
    ENCODINGS


cdef const Layout* layout_of(int encoding) noexcept nogil
cdef int encoding_of(int byte, bint valkey) noexcept nogil
cdef int stream_version(int encoding) noexcept nogil
cdef str module_name(uint64_t module)
