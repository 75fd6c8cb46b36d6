/* CRC-64/Jones (crc64.c of the servers): reflected polynomial, initial value 0, no final xor.
 *
 * Where the processor multiplies without carry (PCLMULQDQ), 64 bytes a step are folded: a snapshot costs a quarter of
 * the time. Elsewhere, and for what is short, sixteen bytes a step through sixteen tables (slicing), which cost 32 KiB of the
 * L1/L2 cache. Little-endian hosts only, as everything in this kernel. */
#ifndef PORTD_CRC64_H
#define PORTD_CRC64_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define PORTD_CRC64_FOLDS 1
#include <immintrin.h>
#endif

#define PORTD_CRC64_POLYNOMIAL UINT64_C(0x95AC9329AC4BC9B5) /* reflected */

static uint64_t portd_crc64_table[16][256];

static void portd_crc64_prepare_tables(void) {
    for (unsigned byte = 0; byte < 256; byte++) {
        uint64_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (PORTD_CRC64_POLYNOMIAL & (0 - (crc & 1)));
        portd_crc64_table[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int slice = 1; slice < 16; slice++) {
            uint64_t crc = portd_crc64_table[slice - 1][byte];
            portd_crc64_table[slice][byte] = portd_crc64_table[0][crc & 0xff] ^ (crc >> 8);
        }
}

static inline uint64_t portd_crc64_eight(uint64_t word, int slice) {
    return portd_crc64_table[slice + 7][word & 0xff] ^ portd_crc64_table[slice + 6][(word >> 8) & 0xff] ^
           portd_crc64_table[slice + 5][(word >> 16) & 0xff] ^ portd_crc64_table[slice + 4][(word >> 24) & 0xff] ^
           portd_crc64_table[slice + 3][(word >> 32) & 0xff] ^ portd_crc64_table[slice + 2][(word >> 40) & 0xff] ^
           portd_crc64_table[slice + 1][(word >> 48) & 0xff] ^ portd_crc64_table[slice][word >> 56];
}

static uint64_t portd_crc64_sliced(uint64_t crc, const unsigned char *p, size_t size) {
    while (size >= 16) {
        uint64_t low, high;
        memcpy(&low, p, 8);
        memcpy(&high, p + 8, 8);
        crc = portd_crc64_eight(crc ^ low, 8) ^ portd_crc64_eight(high, 0);
        p += 16;
        size -= 16;
    }
    while (size--)
        crc = portd_crc64_table[0][(crc ^ *p++) & 0xff] ^ (crc >> 8);
    return crc;
}

#ifdef PORTD_CRC64_FOLDS

#define PORTD_CRC64_FOLDED_BYTES 128 /* below, the tables are as fast */

static int portd_crc64_folds; /* this processor can */
static uint64_t portd_crc64_by_512[2], portd_crc64_by_128[2]; /* what 16 bytes are multiplied with to move on by so many bits */

/* x to the power of n modulo the polynomial, reflected: the highest bit is x to the power of 0. */
static uint64_t portd_crc64_power(unsigned n) {
    uint64_t power = UINT64_C(1) << 63;
    while (n--)
        power = (power >> 1) ^ (PORTD_CRC64_POLYNOMIAL & (0 - (power & 1)));
    return power;
}

/* A product of two reflected numbers is one bit short of being aligned, hence powers that are one less. */
static void portd_crc64_prepare_folds(void) {
    __builtin_cpu_init();
    portd_crc64_folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse2");
    portd_crc64_by_512[0] = portd_crc64_power(512 + 64 - 1);
    portd_crc64_by_512[1] = portd_crc64_power(512 - 1);
    portd_crc64_by_128[0] = portd_crc64_power(128 + 64 - 1);
    portd_crc64_by_128[1] = portd_crc64_power(128 - 1);
}

__attribute__((target("pclmul,sse2"))) static inline __m128i portd_crc64_fold(__m128i lane, __m128i by, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(lane, by, 0x00), high = _mm_clmulepi64_si128(lane, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* size is at least 64. Whole blocks of 64 bytes become 16 bytes whose sum, from 0, is theirs. */
__attribute__((target("pclmul,sse2"))) static uint64_t portd_crc64_folded(
    uint64_t crc, const unsigned char *p, size_t size) {
    const __m128i *blocks = (const __m128i *)p;
    const __m128i by_512 = _mm_loadu_si128((const __m128i *)portd_crc64_by_512);
    const __m128i by_128 = _mm_loadu_si128((const __m128i *)portd_crc64_by_128);
    unsigned char rest[16];
    __m128i a = _mm_xor_si128(_mm_loadu_si128(blocks), _mm_set_epi64x(0, (long long)crc));
    __m128i b = _mm_loadu_si128(blocks + 1), c = _mm_loadu_si128(blocks + 2), d = _mm_loadu_si128(blocks + 3);
    for (size -= 64, blocks += 4; size >= 64; size -= 64, blocks += 4) {
        a = portd_crc64_fold(a, by_512, _mm_loadu_si128(blocks));
        b = portd_crc64_fold(b, by_512, _mm_loadu_si128(blocks + 1));
        c = portd_crc64_fold(c, by_512, _mm_loadu_si128(blocks + 2));
        d = portd_crc64_fold(d, by_512, _mm_loadu_si128(blocks + 3));
    }
    a = portd_crc64_fold(portd_crc64_fold(portd_crc64_fold(a, by_128, b), by_128, c), by_128, d);
    _mm_storeu_si128((__m128i *)rest, a);
    return portd_crc64_sliced(portd_crc64_sliced(0, rest, sizeof rest), (const unsigned char *)blocks, size);
}

#endif

static void portd_crc64_prepare(void) {
    portd_crc64_prepare_tables();
#ifdef PORTD_CRC64_FOLDS
    portd_crc64_prepare_folds();
#endif
}

static uint64_t portd_crc64(uint64_t crc, const void *data, size_t size) {
#ifdef PORTD_CRC64_FOLDS
    if (size >= PORTD_CRC64_FOLDED_BYTES && portd_crc64_folds)
        return portd_crc64_folded(crc, (const unsigned char *)data, size);
#endif
    return portd_crc64_sliced(crc, (const unsigned char *)data, size);
}

#endif
