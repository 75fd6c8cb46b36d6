/* CRC-64/Jones (crc64.c of the servers): reflected polynomial, initial value 0, no final xor.
 *
 * Sixteen bytes a step through sixteen tables (slicing). The tables cost 32 KiB, which stay in the L1/L2 cache while
 * a snapshot is read. Little-endian hosts only, as everything in this kernel. */
#ifndef PORTD_CRC64_H
#define PORTD_CRC64_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PORTD_CRC64_POLYNOMIAL UINT64_C(0x95AC9329AC4BC9B5) /* reflected */

static uint64_t portd_crc64_table[16][256];

static void portd_crc64_prepare(void) {
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

static uint64_t portd_crc64(uint64_t crc, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
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

#endif
