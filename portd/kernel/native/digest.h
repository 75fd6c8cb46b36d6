/* A 128-bit hash in two 64-bit lanes, for comparing values. Not for secrets; the seed is random for every run.
 *
 * Sixteen bytes a step: each lane multiplies the two words, masked by a constant and by itself, into 128 bits and folds
 * them (the construction of wyhash and rapidhash, with the operands folded in again so that a zero factor loses nothing).
 * Bytes may come in any pieces. Little-endian hosts only, as everything in this kernel. */
#ifndef PORTD_DIGEST_H
#define PORTD_DIGEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PORTD_K0 UINT64_C(0xa0761d6478bd642f)
#define PORTD_K1 UINT64_C(0xe7037ed1a0b428db)
#define PORTD_K2 UINT64_C(0x8ebc6af09c88c6e3)
#define PORTD_K3 UINT64_C(0x589965cc75374cc3)

typedef struct {
    uint64_t a, b;
} portd_hash;

typedef struct {
    uint64_t a, b;
    uint64_t total;         /* bytes taken */
    unsigned char tail[16]; /* bytes of a step that is not whole yet */
} portd_hasher;

static inline uint64_t portd_fold(uint64_t x, uint64_t y) {
    unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64) ^ x ^ (y << 32 | y >> 32);
}

static inline void portd_step(portd_hasher *h, uint64_t x, uint64_t y) {
    h->a = portd_fold(x ^ PORTD_K0 ^ h->a, y ^ PORTD_K1);
    h->b = portd_fold(x ^ PORTD_K2, y ^ PORTD_K3 ^ h->b);
}

static inline void portd_hash_begin(portd_hasher *h, portd_hash seed) {
    h->a = seed.a;
    h->b = seed.b;
    h->total = 0;
}

static inline void portd_hash_add(portd_hasher *h, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
    size_t held = h->total & 15;
    uint64_t x, y;
    h->total += size;
    if (held) {
        size_t room = 16 - held;
        if (size < room) {
            if (size) memcpy(h->tail + held, p, size);
            return;
        }
        memcpy(h->tail + held, p, room);
        memcpy(&x, h->tail, 8);
        memcpy(&y, h->tail + 8, 8);
        portd_step(h, x, y);
        p += room;
        size -= room;
    }
    while (size >= 16) {
        memcpy(&x, p, 8);
        memcpy(&y, p + 8, 8);
        portd_step(h, x, y);
        p += 16;
        size -= 16;
    }
    if (size) memcpy(h->tail, p, size);
}

/* Both lanes depend on both halves and on the length. */
static inline portd_hash portd_hash_end(portd_hasher *h) {
    portd_hash out;
    size_t held = h->total & 15;
    uint64_t x = 0, y = 0;
    if (held) {
        memset(h->tail + held, 0, 16 - held);
        memcpy(&x, h->tail, 8);
        memcpy(&y, h->tail + 8, 8);
    }
    portd_step(h, x ^ h->total, y);
    out.a = portd_fold(h->a ^ PORTD_K3, h->b ^ PORTD_K0 ^ h->total);
    out.b = portd_fold(h->b ^ PORTD_K1, h->a ^ PORTD_K2);
    return out;
}

static inline portd_hash portd_hash_bytes(portd_hash seed, const void *data, size_t size) {
    portd_hasher h;
    portd_hash_begin(&h, seed);
    portd_hash_add(&h, data, size);
    return portd_hash_end(&h);
}

/* An ordered pair: mixing (x, y) differs from mixing (y, x). */
static inline portd_hash portd_hash_pair(portd_hash x, portd_hash y) {
    portd_hasher h;
    h.a = x.a;
    h.b = x.b;
    portd_step(&h, y.a, y.b);
    x.a = portd_fold(h.a ^ PORTD_K2, x.b ^ PORTD_K1);
    x.b = portd_fold(h.b ^ PORTD_K3, y.a ^ PORTD_K0);
    return x;
}

static inline portd_hash portd_hash_numbers(portd_hash seed, uint64_t x, uint64_t y) {
    portd_hash pair;
    pair.a = x;
    pair.b = y;
    return portd_hash_pair(seed, pair);
}

#endif
