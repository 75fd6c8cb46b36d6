/* Decimal text of integers, as RESP headers and integer-encoded values need it. */
#ifndef PORTD_FORMAT_H
#define PORTD_FORMAT_H

#include <stdint.h>
#include <string.h>

static const char portd_pairs[201] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657"
    "585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/* Digits of value in decimal, 1 to 20. */
static inline int portd_digits(uint64_t value) {
    int digits = 1;
    for (;;) {
        if (value < 10) return digits;
        if (value < 100) return digits + 1;
        if (value < 1000) return digits + 2;
        if (value < 10000) return digits + 3;
        value /= 10000;
        digits += 4;
    }
}

/* Writes value at out without a terminator; returns its length, 1 to 20. */
static inline int portd_format_u64(char *out, uint64_t value) {
    int digits = portd_digits(value);
    char *p = out + digits;
    while (value >= 100) {
        p -= 2;
        memcpy(p, portd_pairs + (value % 100) * 2, 2);
        value /= 100;
    }
    if (value >= 10)
        memcpy(p - 2, portd_pairs + value * 2, 2);
    else
        *(p - 1) = (char)('0' + value);
    return digits;
}

/* The same for signed values, 1 to 20 bytes with the sign. */
static inline int portd_format_i64(char *out, int64_t value) {
    if (value >= 0) return portd_format_u64(out, (uint64_t)value);
    *out = '-';
    return 1 + portd_format_u64(out + 1, 0 - (uint64_t)value);
}

#endif
