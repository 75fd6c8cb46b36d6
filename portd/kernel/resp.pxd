# cython: language_level=3, cdivision=True
"""Small readers for RESP bytes: lengths, numbers, words. Inline, without Python objects, used by the kernel's units.

Some read a few bytes beyond what they are given (said where it is so): buffers keep ``SLACK`` bytes for that.
"""

from libc.stdint cimport uint8_t, uint64_t, int64_t
from libc.string cimport memcpy, strlen


cdef enum:
    SLACK = 16  # bytes behind a buffer's end that may be read
    MAX_DIGITS = 19  # longer numbers do not fit a signed 64-bit number
    SMALL = 64  # arguments that are looked at are not longer

cdef extern from *:
    """
    #define PORTD_NEVER_MS (INT64_MAX / 4)  /* unix ms; no server takes a later expiry, and sums of two still fit */
    """
    const int64_t NEVER_MS "PORTD_NEVER_MS"


cdef enum Line:
    LINE_READ
    LINE_CUT  # its end is not here yet
    LINE_WRONG  # not a number, or another line end
    LINE_LONG  # more digits than any length has


cdef inline int read_length(const uint8_t** cursor, const uint8_t* end, uint64_t* value) noexcept nogil:
    """Reads ``<digits>CRLF`` and moves *cursor* behind it.

    Reads the byte at *end*, which must not be a digit. Signs and leading zeros are wrong, as servers say
    (util.c:string2ll).
    """
    cdef const uint8_t* digits = cursor[0]
    cdef const uint8_t* p = digits
    cdef uint64_t number = 0
    cdef unsigned int digit
    while True:
        digit = <unsigned int> p[0] - c"0"
        if digit > 9:
            break
        number = number * 10 + digit
        p += 1
        if p - digits > MAX_DIGITS:
            return LINE_LONG
    if end - p < 2:
        return LINE_WRONG if p < end and (p[0] != c"\r" or p == digits) else LINE_CUT
    if p[0] != c"\r" or p[1] != c"\n" or p == digits or (digits[0] == c"0" and p - digits > 1):
        return LINE_WRONG
    value[0] = number
    cursor[0] = p + 2
    return LINE_READ


cdef inline const uint8_t* argument_behind(const uint8_t* header, Py_ssize_t* size) noexcept nogil:
    """The payload behind the ``$<digits>CRLF`` at *header*, which is known to be right."""
    cdef const uint8_t* digit = header + 1
    size[0] = 0
    while digit[0] != c"\r":
        size[0] = size[0] * 10 + (digit[0] - c"0")
        digit += 1
    return digit + 2


cdef inline bint read_number(const uint8_t* text, Py_ssize_t size, int64_t most, int64_t* number) noexcept nogil:
    """Reads a number as the most lenient server does: sign, leading zeros. Its size is cut to *most*."""
    cdef bint negative = size > 0 and text[0] == c"-"
    cdef Py_ssize_t i = 1 if size > 0 and (text[0] == c"-" or text[0] == c"+") else 0
    cdef int64_t value = 0
    if i == size:
        return False
    while i < size:
        if not c"0" <= text[i] <= c"9":
            return False
        value = value * 10 + (text[i] - c"0") if value < most // 10 else most
        i += 1
    number[0] = -value if negative else value
    return True


cdef inline uint64_t load_word(const uint8_t* text, Py_ssize_t size) noexcept nogil:
    """Up to eight letters as a number, in upper case; reads eight bytes."""
    cdef uint64_t word = 0
    memcpy(&word, text, 8)
    word &= <uint64_t> 0xDFDFDFDFDFDFDFDF
    return word if size >= 8 else word & ((<uint64_t> 1 << (8 * size)) - 1)


cdef inline bint is_word(const uint8_t* text, Py_ssize_t size, const char* word) noexcept nogil:
    """Whether *text* is *word* (upper case, at most eight letters) in any letter case; reads eight bytes of *text*."""
    cdef uint8_t wanted[8]
    cdef Py_ssize_t length = <Py_ssize_t> strlen(word)
    if size != length:
        return False
    memcpy(wanted, word, length)
    return load_word(text, size) == load_word(wanted, size)


cdef inline Py_ssize_t print_number(int64_t number, char* text, Py_ssize_t end) noexcept nogil:
    """Writes a number that is not negative so that it ends before ``text[end]``; where it begins."""
    while True:
        end -= 1
        text[end] = <char> (c"0" + number % 10)
        number //= 10
        if number == 0:
            return end
