# cython: language_level=3, auto_pickle=False
"""The table of value encodings: rdb.h of Redis (RDB 1 to 15) and of Valkey (80).

The shape of a row says who reads the value behind its count (the table of states in keys.pyx):

    S_STRING     keys.pyx       rdb.c:rdbGenericLoadStringObject
    S_ITEMS      elements.pyx   read_elements: rdb.c:rdbLoadObject
    S_BLOB       elements.pyx   read_cells: rdb.c:rdbLoadObject and, by container, listpack.c:lpGetWithSize,
                                ziplist.c:zipEntry, intset.c, zipmap.c
    S_NODES      elements.pyx   read_node, then as S_BLOB: rdb.c:rdbLoadObject
    S_STREAM     streams.pyx    rdb.c:rdbLoadObject, t_stream.c:streamAppendItem
    S_MODULE     rare.pyx       read_module: rdb.c:rdbLoadCheckModuleValue
    S_ARRAY      rare.pyx       read_array: rdb.c:rdbLoadObject, sparsearray.c
    S_TEMPLATE   rare.pyx       read_template: rdb.c:rdbLoadObject
    S_NUMBER     keys.pyx       one length

A new encoding is a row here and, when its shape is new, a state in keys.pyx and one function in rare.pyx.
"""

cdef Layout[<int>ENCODINGS] LAYOUTS
cdef signed char[2][64] BY_BYTE      # [valkey][type byte] -> Encoding


cdef const Layout* layout_of(int encoding) noexcept nogil:
    return &LAYOUTS[encoding]


cdef int encoding_of(int byte, bint valkey) noexcept nogil:
    return BY_BYTE[1 if valkey else 0][byte] if byte < 64 else <int>E_NONE


cdef int stream_version(int encoding) noexcept nogil:
    if encoding == E_STREAM_1:
        return 1
    if encoding == E_STREAM_2:
        return 2
    if encoding == E_STREAM_3:
        return 3
    return 4 if encoding == E_STREAM_4 else 5


cdef str module_name(uint64_t module):
    """Nine characters of six bits each, highest first; the low ten bits are the encoding version (module.c)."""
    cdef bytes alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return bytes([alphabet[(module >> (10 + 6 * (8 - i))) & 63] for i in range(9)]).decode()


cdef void row(
    int encoding, int byte, const char* name, int collection, int shape, int container,
    const char* prefix, const char* pattern, int strings, int redis, int valkey,
) noexcept:
    LAYOUTS[encoding] = Layout(
        name=name, collection=collection, shape=shape, container=container, prefix=prefix, pattern=pattern,
        strings=strings, redis=redis, valkey=valkey,
    )
    # Bytes up to 21 are common; from 22 on each family has its own.
    if byte < 22 or encoding != E_HASH_TTL_VALKEY:
        BY_BYTE[0][byte] = <signed char>encoding
    if byte < 22 or encoding == E_HASH_TTL_VALKEY:
        BY_BYTE[1][byte] = <signed char>encoding


cdef void fill() noexcept:
    cdef int byte
    for byte in range(64):
        BY_BYTE[0][byte] = BY_BYTE[1][byte] = E_NONE
    row(E_STRING, 0, "string", C_STRING, S_STRING, K_NONE, "", "s", 1, 1, 1)
    row(E_LIST, 1, "list", C_LIST, S_ITEMS, K_NONE, "", "s", 1, 1, 1)
    row(E_SET, 2, "set", C_SET, S_ITEMS, K_NONE, "", "s", 1, 1, 1)
    row(E_ZSET, 3, "zset", C_ZSET, S_ITEMS, K_NONE, "", "sz", 1, 1, 1)
    row(E_HASH, 4, "hash", C_HASH, S_ITEMS, K_NONE, "", "ss", 2, 1, 1)
    row(E_ZSET_2, 5, "zset_2", C_ZSET, S_ITEMS, K_NONE, "", "sd", 1, 8, 1)
    row(E_MODULE, 7, "module", C_MODULE, S_MODULE, K_NONE, "", "", 0, 8, 1)
    row(E_HASH_ZIPMAP, 9, "hash_zipmap", C_HASH, S_BLOB, K_ZIPMAP, "", "", 2, 2, 1)
    row(E_LIST_ZIPLIST, 10, "list_ziplist", C_LIST, S_BLOB, K_ZIPLIST, "", "", 1, 2, 1)
    row(E_SET_INTSET, 11, "set_intset", C_SET, S_BLOB, K_INTSET, "", "", 1, 2, 1)
    row(E_ZSET_ZIPLIST, 12, "zset_ziplist", C_ZSET, S_BLOB, K_ZIPLIST, "", "", 2, 2, 1)
    row(E_HASH_ZIPLIST, 13, "hash_ziplist", C_HASH, S_BLOB, K_ZIPLIST, "", "", 2, 4, 1)
    row(E_LIST_QUICKLIST, 14, "list_quicklist", C_LIST, S_NODES, K_ZIPLIST, "", "s", 1, 7, 1)
    row(E_STREAM_1, 15, "stream_listpacks", C_STREAM, S_STREAM, K_LISTPACK, "", "", 0, 9, 1)
    row(E_HASH_LISTPACK, 16, "hash_listpack", C_HASH, S_BLOB, K_LISTPACK, "", "", 2, 10, 1)
    row(E_ZSET_LISTPACK, 17, "zset_listpack", C_ZSET, S_BLOB, K_LISTPACK, "", "", 2, 10, 1)
    row(E_LIST_QUICKLIST_2, 18, "list_quicklist_2", C_LIST, S_NODES, K_LISTPACK, "", "ls", 1, 10, 1)
    row(E_STREAM_2, 19, "stream_listpacks_2", C_STREAM, S_STREAM, K_LISTPACK, "", "", 0, 10, 1)
    row(E_SET_LISTPACK, 20, "set_listpack", C_SET, S_BLOB, K_LISTPACK, "", "", 1, 11, 1)
    row(E_STREAM_3, 21, "stream_listpacks_3", C_STREAM, S_STREAM, K_LISTPACK, "", "", 0, 11, 1)
    row(E_HASH_TTL_RC, 22, "hash_metadata_rc", C_HASH, S_ITEMS, K_NONE, "", "lss", 2, 0, 0)
    row(E_HASH_LISTPACK_TTL_RC, 23, "hash_listpack_ex_rc", C_HASH, S_BLOB, K_LISTPACK, "", "", 3, 0, 0)
    row(E_HASH_TTL_VALKEY, 22, "hash_2", C_HASH, S_ITEMS, K_NONE, "", "ssd", 2, 0, 80)
    row(E_HASH_TTL, 24, "hash_metadata", C_HASH, S_ITEMS, K_NONE, "d", "lss", 2, 12, 0)
    row(E_HASH_LISTPACK_TTL, 25, "hash_listpack_ex", C_HASH, S_BLOB, K_LISTPACK, "d", "", 3, 12, 0)
    row(E_STREAM_4, 26, "stream_listpacks_4", C_STREAM, S_STREAM, K_LISTPACK, "", "", 0, 13, 0)
    row(E_STREAM_5, 27, "stream_listpacks_5", C_STREAM, S_STREAM, K_LISTPACK, "", "", 0, 14, 0)
    row(E_ARRAY, 28, "array", C_ARRAY, S_ARRAY, K_NONE, "", "", 0, 14, 0)
    row(E_TEMPLATE_LISTPACK, 29, "hash_template_listpack", C_HASH, S_TEMPLATE, K_LISTPACK, "", "", 1, 15, 0)
    row(E_TEMPLATE_LISTPACK_REF, 30, "hash_template_listpack_ref", C_HASH, S_TEMPLATE, K_LISTPACK, "", "", 1, 0, 0)
    row(E_TEMPLATE_ITEMS, 31, "hash_template_array", C_HASH, S_TEMPLATE, K_NONE, "", "", 1, 15, 0)
    row(E_TEMPLATE_ITEMS_REF, 32, "hash_template_array_ref", C_HASH, S_TEMPLATE, K_NONE, "", "", 1, 0, 0)
    row(E_GCRA, 33, "gcra", C_OTHER, S_NUMBER, K_NONE, "", "", 0, 0, 0)


fill()
