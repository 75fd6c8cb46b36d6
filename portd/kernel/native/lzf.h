/* LZF decompression of a whole string (lzf_d.c).
 *
 * Both kinds of copies move whole words past their end where there is room for it: most runs are shorter than a call of
 * memcpy is worth. Near the ends of either buffer they go byte by byte. */
#ifndef PORTD_LZF_H
#define PORTD_LZF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Fills out with exactly plain bytes. Returns 0, or -1 when the input does not say exactly that. */
static int portd_lzf(const unsigned char *source, ptrdiff_t size, unsigned char *out, ptrdiff_t plain) {
    const unsigned char *end = source + size;
    unsigned char *start = out;
    unsigned char *limit = out + plain;
    while (source < end) {
        unsigned control = *source++;
        if (control < 32) { /* literals */
            ptrdiff_t length = (ptrdiff_t)control + 1;
            if (end - source >= 32 && limit - out >= 32) {
                memcpy(out, source, 32);
            } else {
                if (end - source < length || limit - out < length) return -1;
                memcpy(out, source, (size_t)length);
            }
            source += length;
            out += length;
            continue;
        }
        ptrdiff_t length = control >> 5;
        if (length == 7) {
            if (source >= end) return -1;
            length += *source++;
        }
        length += 2;
        if (source >= end) return -1;
        ptrdiff_t distance = (ptrdiff_t)((control & 31) << 8 | *source++) + 1;
        const unsigned char *back = out - distance;
        if (out - start < distance || limit - out < length) return -1;
        if (distance >= 8 && limit - out >= length + 8) {
            unsigned char *stop = out + length;
            do {
                memcpy(out, back, 8);
                out += 8;
                back += 8;
            } while (out < stop);
            out = stop;
        } else {
            while (length--) *out++ = *back++; /* may overlap what it produces */
        }
    }
    return out == limit ? 0 : -1;
}

#endif
