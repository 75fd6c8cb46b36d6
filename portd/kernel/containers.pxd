# The packed containers inside blobs: listpack.c, ziplist.c, intset.c, zipmap.c of the servers.
#
# Functions here read the head of one cell and report its sizes; whether all of it is at hand is the caller's check.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef struct Cell:
    bint is_number
    int64_t number
    uint64_t n              # string length, bytes; 0 for a number
    Py_ssize_t head         # bytes before the string
    Py_ssize_t tail         # bytes behind it


cdef enum CellResult:
    CELL_BAD = -1
    CELL_MORE = 0           # the head is cut
    CELL_OK = 1
    CELL_END = 2


cdef inline uint16_t le16(const unsigned char* p) noexcept nogil:
    cdef uint16_t v = 0
    memcpy(&v, p, 2)
    return v


cdef inline uint32_t le32(const unsigned char* p) noexcept nogil:
    cdef uint32_t v = 0
    memcpy(&v, p, 4)
    return v


cdef inline uint64_t le64(const unsigned char* p) noexcept nogil:
    cdef uint64_t v = 0
    memcpy(&v, p, 8)
    return v


cdef inline uint32_t be32(const unsigned char* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint64_t be64(const unsigned char* p) noexcept nogil:
    return (<uint64_t>be32(p) << 32) | be32(p + 4)


cdef inline Py_ssize_t listpack_tail(uint64_t size) noexcept nogil:
    """Bytes of the backward length behind a cell of *size* bytes; the limits are the writer's (lpEncodeBacklen)."""
    if size <= 127:
        return 1
    if size < 16383:
        return 2
    if size < 2097151:
        return 3
    return 4 if size < 268435455 else 5


cdef inline int listpack_cell(const unsigned char* p, Py_ssize_t avail, Cell* cell) noexcept nogil:
    cdef int b
    cdef int width
    if avail < 1:
        return CELL_MORE
    b = p[0]
    cell.n = 0
    cell.is_number = True
    if b < 0x80:                                    # 0xxxxxxx: 7-bit unsigned
        cell.number = b
        cell.head = 1
        cell.tail = 1
        return CELL_OK
    if b < 0xC0:                                    # 10xxxxxx: string, 6-bit length
        cell.is_number = False
        cell.n = b & 0x3F
        cell.head = 1
        cell.tail = 1
        return CELL_OK
    if b < 0xE0:                                    # 110xxxxx: 13-bit signed
        if avail < 2:
            return CELL_MORE
        cell.number = ((b & 0x1F) << 8) | p[1]
        if cell.number >= 1 << 12:
            cell.number -= 1 << 13
        cell.head = 2
        cell.tail = 1
        return CELL_OK
    if b < 0xF0:                                    # 1110xxxx: string, 12-bit length
        if avail < 2:
            return CELL_MORE
        cell.is_number = False
        cell.n = ((b & 0x0F) << 8) | p[1]
        cell.head = 2
        cell.tail = listpack_tail(2 + cell.n)
        return CELL_OK
    if b == 0xF0:                                   # string, 32-bit length
        if avail < 5:
            return CELL_MORE
        cell.is_number = False
        cell.n = le32(p + 1)
        cell.head = 5
        cell.tail = listpack_tail(5 + cell.n)
        return CELL_OK
    if b == 0xFF:
        return CELL_END
    if b > 0xF4:
        return CELL_BAD
    width = 2 if b == 0xF1 else 3 if b == 0xF2 else 4 if b == 0xF3 else 8
    if avail < 1 + width:
        return CELL_MORE
    cell.number = little_signed(p + 1, width)
    cell.head = 1 + width
    cell.tail = 1
    return CELL_OK


cdef inline int64_t little_signed(const unsigned char* p, int width) noexcept nogil:
    if width == 1:
        return <int8_t>p[0]
    if width == 2:
        return <int16_t>le16(p)
    if width == 3:
        return <int32_t>(((<uint32_t>p[0]) << 8) | ((<uint32_t>p[1]) << 16) | ((<uint32_t>p[2]) << 24)) >> 8
    if width == 4:
        return <int32_t>le32(p)
    return <int64_t>le64(p)


cdef inline int ziplist_cell(const unsigned char* p, Py_ssize_t avail, Cell* cell) noexcept nogil:
    cdef int b
    cdef int width
    cdef Py_ssize_t head
    if avail < 1:
        return CELL_MORE
    if p[0] == 0xFF:
        return CELL_END
    head = 5 if p[0] == 0xFE else 1                 # length of the entry before
    if avail < head + 1:
        return CELL_MORE
    b = p[head]
    cell.tail = 0
    cell.n = 0
    cell.is_number = False
    if b < 0x40:                                    # 00pppppp: string, 6-bit length
        cell.n = b
        cell.head = head + 1
        return CELL_OK
    if b < 0x80:                                    # 01pppppp: string, 14-bit length
        if avail < head + 2:
            return CELL_MORE
        cell.n = ((b & 0x3F) << 8) | p[head + 1]
        cell.head = head + 2
        return CELL_OK
    if b < 0xC0:                                    # 10______: string, 32-bit length
        if avail < head + 5:
            return CELL_MORE
        cell.n = be32(p + head + 1)
        cell.head = head + 5
        return CELL_OK
    cell.is_number = True
    if 0xF1 <= b <= 0xFD:                           # 4-bit unsigned, stored plus one
        cell.number = (b & 0x0F) - 1
        cell.head = head + 1
        return CELL_OK
    if b == 0xC0:
        width = 2
    elif b == 0xD0:
        width = 4
    elif b == 0xE0:
        width = 8
    elif b == 0xF0:
        width = 3
    elif b == 0xFE:
        width = 1
    else:
        return CELL_BAD
    if avail < head + 1 + width:
        return CELL_MORE
    cell.number = little_signed(p + head + 1, width)
    cell.head = head + 1 + width
    return CELL_OK


cdef inline int zipmap_cell(const unsigned char* p, Py_ssize_t avail, bint value, Cell* cell) noexcept nogil:
    """A zipmap's key, or (*value*) its value, which has a count of padding bytes between length and bytes."""
    cdef Py_ssize_t head
    if avail < 1:
        return CELL_MORE
    if p[0] == 0xFF:
        return CELL_BAD if value else CELL_END
    head = 5 if p[0] == 0xFE else 1
    if avail < head + value:
        return CELL_MORE
    cell.is_number = False
    cell.n = le32(p + 1) if head == 5 else p[0]
    cell.tail = p[head] if value else 0
    cell.head = head + value
    return CELL_OK
