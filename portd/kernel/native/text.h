/* Bytes as text: JSON strings, base64, UTF-8 validity. */
#ifndef PORTD_TEXT_H
#define PORTD_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PORTD_ONES UINT64_C(0x0101010101010101)
#define PORTD_HIGH UINT64_C(0x8080808080808080)

static inline uint64_t portd_has_zero(uint64_t v) { return (v - PORTD_ONES) & ~v & PORTD_HIGH; }

/* Nonzero when the bytes stand in a JSON string as they are: ASCII without controls, quotes and backslashes. */
static inline int portd_json_plain(const unsigned char *p, size_t n) {
    while (n >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        if ((v & PORTD_HIGH) || portd_has_zero(v & (PORTD_ONES * 0xE0)) || portd_has_zero(v ^ (PORTD_ONES * '"')) ||
            portd_has_zero(v ^ (PORTD_ONES * '\\')))
            return 0;
        p += 8;
        n -= 8;
    }
    while (n--) {
        unsigned char c = *p++;
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\') return 0;
    }
    return 1;
}

/* Nonzero when the bytes are UTF-8 (RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF). */
static inline int portd_utf8(const unsigned char *p, size_t n) {
    const unsigned char *end = p + n;
    while (p < end) {
        unsigned char c = *p;
        if (c < 0x80) {
            p++;
            continue;
        }
        int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || end - p <= more) return 0;
        if ((c == 0xE0 && p[1] < 0xA0) || (c == 0xED && p[1] > 0x9F) || (c == 0xF0 && p[1] < 0x90) ||
            (c == 0xF4 && p[1] > 0x8F))
            return 0;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xC0) != 0x80) return 0;
        p += more + 1;
    }
    return 1;
}

/* Nonzero where a control character of C1 (U+0080 to U+009F) begins, which terminals obey. */
static inline int portd_c1(const unsigned char *p, size_t n) { return p[0] == 0xC2 && n > 1 && p[1] < 0xA0; }

/* Nonzero when UTF-8 holds a control character beside tabs and ends of lines. */
static inline int portd_has_control(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = p[i];
        if (c == 0x7F || portd_c1(p + i, n - i)) return 1;
        if (c < 0x20 && c != '\t' && c != '\n' && !(c == '\r' && n - i > 1 && p[i + 1] == '\n')) return 1;
    }
    return 0;
}

static const char portd_hex[] = "0123456789abcdef";

/* Escapes into out, or only counts when out is NULL; returns the size. */
static inline size_t portd_json_escape(char *out, const unsigned char *p, size_t n) {
    size_t size = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = p[i];
        char letter = c == '"' || c == '\\' ? (char)c : c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : 0;
        if (letter) {
            if (out) out[size] = '\\', out[size + 1] = letter;
            size += 2;
        } else if (c < 0x20 || c == 0x7F || portd_c1(p + i, n - i)) {
            if (c == 0xC2) c = p[++i];
            if (out) {
                memcpy(out + size, "\\u00", 4);
                out[size + 4] = portd_hex[c >> 4];
                out[size + 5] = portd_hex[c & 15];
            }
            size += 6;
        } else {
            if (out) out[size] = (char)c;
            size++;
        }
    }
    return size;
}

static const char portd_base64_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Writes base64 with its padding; returns the size, 4 for each 3 bytes begun. */
static inline size_t portd_base64(char *out, const unsigned char *p, size_t n) {
    char *begin = out;
    for (; n >= 3; n -= 3, p += 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        *out++ = portd_base64_letters[v >> 18];
        *out++ = portd_base64_letters[v >> 12 & 63];
        *out++ = portd_base64_letters[v >> 6 & 63];
        *out++ = portd_base64_letters[v & 63];
    }
    if (n) {
        uint32_t v = (uint32_t)p[0] << 16 | (n == 2 ? (uint32_t)p[1] << 8 : 0);
        *out++ = portd_base64_letters[v >> 18];
        *out++ = portd_base64_letters[v >> 12 & 63];
        *out++ = n == 2 ? portd_base64_letters[v >> 6 & 63] : '=';
        *out++ = '=';
    }
    return (size_t)(out - begin);
}

/* Nonzero when the bytes are a JSON number. */
static inline int portd_json_number(const unsigned char *p, size_t n) {
    const unsigned char *end = p + n;
    const unsigned char *digits;
    if (p < end && *p == '-') p++;
    digits = p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    if (p == digits || (*digits == '0' && p - digits > 1)) return 0;
    if (p < end && *p == '.') {
        digits = ++p;
        while (p < end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return 0;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        digits = p;
        while (p < end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return 0;
    }
    return p == end;
}

#endif
