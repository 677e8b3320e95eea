/* xxh3.h -- the 64-bit XXH3 hash of a byte range, with a seed.
 *
 * Owns: the hash function only; no state, no allocation, no initialisation.
 *
 * Promises: xxh3_64(data, length, seed) is XXH3_64bits_withSeed of the published algorithm, bit
 * for bit, for every length and seed and on hosts of either byte order: values that were stored
 * by one host are verified by any other.  `data` may have any alignment, and may be NULL when
 * `length` is 0; no byte outside [data, data + length) is read.  Safe from any thread.
 *
 * Inputs of up to 240 bytes are the hot range: they take one branch per length class and are
 * inlined into the caller.  Longer ones go through one function that stays out of line, so that
 * the bulk loop does not bloat every call site.
 */
#ifndef STRANDLINE_XXH3_H
#define STRANDLINE_XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define XXH3_P32_1 UINT64_C(0x9E3779B1)
#define XXH3_P32_2 UINT64_C(0x85EBCA77)
#define XXH3_P32_3 UINT64_C(0xC2B2AE3D)
#define XXH3_P64_1 UINT64_C(0x9E3779B185EBCA87)
#define XXH3_P64_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define XXH3_P64_3 UINT64_C(0x165667B19E3779F9)
#define XXH3_P64_4 UINT64_C(0x85EBCA77C2B2AE63)
#define XXH3_P64_5 UINT64_C(0x27D4EB2F165667C5)

enum {
    XXH3_SECRET_SIZE = 192,
    XXH3_STRIPE = 64,
    /* Each stripe of a block moves the key window by 8 bytes; the window must stay within the
     * secret, which fixes the number of stripes per block at (192 - 64) / 8. */
    XXH3_STRIPES_PER_BLOCK = 16,
    XXH3_BLOCK = XXH3_STRIPE * XXH3_STRIPES_PER_BLOCK
};

/* Part of the definition of the algorithm: one changed byte changes every hash. */
static const uint8_t xxh3_secret[XXH3_SECRET_SIZE] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

/* ---- Loads: memcpy is the only unaligned access that C defines; it compiles to one move. ---- */

static inline uint64_t xxh3_le64(uint64_t value) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

static inline uint64_t xxh3_load64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return xxh3_le64(value);
}

static inline uint64_t xxh3_load32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    return value;
}

/* Two secret words xored: the compiler folds this to a constant, since the secret is const. */
static inline uint64_t xxh3_flip(size_t offset) {
    return xxh3_load64(xxh3_secret + offset) ^ xxh3_load64(xxh3_secret + offset + 8);
}

/* ---- Mixers ---- */

/* The full 128-bit product, folded by xor so that every input bit reaches the 64-bit result. */
static inline uint64_t xxh3_mul_fold(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    const uint64_t a_lo = a & UINT32_MAX, a_hi = a >> 32, b_lo = b & UINT32_MAX, b_hi = b >> 32;
    const uint64_t low = a_lo * b_lo;
    /* Neither sum can overflow: (2^32 - 1)^2 + 2 * (2^32 - 1) is exactly 2^64 - 1. */
    const uint64_t cross = (low >> 32) + (a_hi * b_lo & UINT32_MAX) + a_lo * b_hi;
    const uint64_t high = (a_hi * b_lo >> 32) + (cross >> 32) + a_hi * b_hi;
    return ((cross << 32) | (low & UINT32_MAX)) ^ high;
#endif
}

static inline uint64_t xxh3_rotl(uint64_t value, unsigned count) {
    return (value << count) | (value >> (64 - count));
}

/* Enough for accumulators that a wide multiply has already mixed. */
static inline uint64_t xxh3_avalanche(uint64_t hash) {
    hash ^= hash >> 37;
    hash *= UINT64_C(0x165667919E3779F9);
    return hash ^ (hash >> 32);
}

/* The stronger finish of XXH64, for the shortest inputs, which no multiply has mixed before. */
static inline uint64_t xxh3_avalanche_full(uint64_t hash) {
    hash ^= hash >> 33;
    hash *= XXH3_P64_2;
    hash ^= hash >> 29;
    hash *= XXH3_P64_3;
    return hash ^ (hash >> 32);
}

/* 16 bytes of input against 16 of the secret.  The seed goes in with opposite signs, so that it
 * cannot cancel between the two factors. */
static inline uint64_t xxh3_mix16(const uint8_t *in, size_t key, uint64_t seed) {
    return xxh3_mul_fold(xxh3_load64(in) ^ (xxh3_load64(xxh3_secret + key) + seed),
                         xxh3_load64(in + 8) ^ (xxh3_load64(xxh3_secret + key + 8) - seed));
}

/* ---- Length classes up to 240 bytes.  Head and tail loads overlap instead of looping. ---- */

static inline uint64_t xxh3_0_to_16(const uint8_t *in, size_t length, uint64_t seed) {
    if (length > 8) {
        const uint64_t low = xxh3_load64(in) ^ (xxh3_flip(24) + seed);
        const uint64_t high = xxh3_load64(in + length - 8) ^ (xxh3_flip(40) - seed);
        return xxh3_avalanche(length + __builtin_bswap64(low) + high + xxh3_mul_fold(low, high));
    }
    if (length >= 4) {
        const uint64_t both = (xxh3_load32(in) << 32) + xxh3_load32(in + length - 4);
        /* A seed that only fills the low half must still disturb the high half. */
        seed ^= (uint64_t)__builtin_bswap32((uint32_t)seed) << 32;
        uint64_t hash = both ^ (xxh3_flip(8) - seed);
        hash ^= xxh3_rotl(hash, 49) ^ xxh3_rotl(hash, 24);
        hash *= UINT64_C(0x9FB21C651E98DF25);
        hash ^= (hash >> 35) + length;
        hash *= UINT64_C(0x9FB21C651E98DF25);
        return hash ^ (hash >> 28);
    }
    if (length > 0) {
        /* First, middle and last cover all of 1, 2 or 3 bytes; the length tells them apart. */
        const uint64_t packed = ((uint64_t)in[0] << 16) | ((uint64_t)in[length >> 1] << 24) |
                                in[length - 1] | ((uint64_t)length << 8);
        const uint64_t flip = xxh3_load32(xxh3_secret) ^ xxh3_load32(xxh3_secret + 4);
        return xxh3_avalanche_full(packed ^ (flip + seed));
    }
    return xxh3_avalanche_full(seed ^ xxh3_flip(56));
}

static inline uint64_t xxh3_17_to_128(const uint8_t *in, size_t length, uint64_t seed) {
    const uint8_t *const end = in + length;
    uint64_t sum = length * XXH3_P64_1;
    /* From the outside in.  Addition commutes, so the order is free for the scheduler. */
    if (length > 32) {
        if (length > 64) {
            if (length > 96) {
                sum += xxh3_mix16(in + 48, 96, seed) + xxh3_mix16(end - 64, 112, seed);
            }
            sum += xxh3_mix16(in + 32, 64, seed) + xxh3_mix16(end - 48, 80, seed);
        }
        sum += xxh3_mix16(in + 16, 32, seed) + xxh3_mix16(end - 32, 48, seed);
    }
    sum += xxh3_mix16(in, 0, seed) + xxh3_mix16(end - 16, 16, seed);
    return xxh3_avalanche(sum);
}

static inline uint64_t xxh3_129_to_240(const uint8_t *in, size_t length, uint64_t seed) {
    uint64_t head = length * XXH3_P64_1;
    for (size_t at = 0; at < 128; at += 16) {
        head += xxh3_mix16(in + at, at, seed);
    }
    /* The tail is summed apart from the head, so that it need not wait for this avalanche.  Its
     * keys are shifted by 3 bytes, or they would repeat those of the head; the last one ends at
     * byte 135, where the minimum size of a secret in the specification (136) ends. */
    uint64_t tail = xxh3_mix16(in + length - 16, 136 - 17, seed);
    for (size_t at = 128; at + 16 <= length; at += 16) {
        tail += xxh3_mix16(in + at, at - 128 + 3, seed);
    }
    return xxh3_avalanche(xxh3_avalanche(head) + tail);
}

/* ---- Above 240 bytes: eight 64-bit lanes over stripes of 64 bytes. ---- */

#if defined(__SSE2__)

/* The lanes are the caller's local array; inlined into one function, it lives in registers. */
typedef __m128i xxh3_lanes[4];

static inline void xxh3_lanes_start(xxh3_lanes lanes, const uint64_t start[8]) {
    for (int i = 0; i < 4; i++) {
        lanes[i] = _mm_loadu_si128((const __m128i *)(const void *)(start + 2 * i));
    }
}

static inline void xxh3_lanes_finish(xxh3_lanes lanes, uint64_t result[8]) {
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i *)(void *)(result + 2 * i), lanes[i]);
    }
}

static inline void xxh3_stripe(xxh3_lanes lanes, const uint8_t *in, const uint8_t *key) {
    for (int i = 0; i < 4; i++) {
        const __m128i data = _mm_loadu_si128((const __m128i *)(const void *)(in + 16 * i));
        const __m128i mask = _mm_loadu_si128((const __m128i *)(const void *)(key + 16 * i));
        const __m128i keyed = _mm_xor_si128(data, mask);
        const __m128i product = _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32));
        const __m128i swapped = _mm_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
        lanes[i] = _mm_add_epi64(_mm_add_epi64(lanes[i], swapped), product);
    }
}

static inline void xxh3_scramble(xxh3_lanes lanes, const uint8_t *key) {
    const __m128i prime = _mm_set1_epi64x((long long)XXH3_P32_1);
    for (int i = 0; i < 4; i++) {
        const __m128i mask = _mm_loadu_si128((const __m128i *)(const void *)(key + 16 * i));
        const __m128i folded = _mm_xor_si128(lanes[i], _mm_srli_epi64(lanes[i], 47));
        const __m128i keyed = _mm_xor_si128(folded, mask);
        /* SSE2 has no 64-bit multiply; the prime has 32 bits, so two 32-bit halves do. */
        const __m128i low = _mm_mul_epu32(keyed, prime);
        const __m128i high = _mm_mul_epu32(_mm_srli_epi64(keyed, 32), prime);
        lanes[i] = _mm_add_epi64(low, _mm_slli_epi64(high, 32));
    }
}

#else

typedef uint64_t xxh3_lanes[8];

static inline void xxh3_lanes_start(xxh3_lanes lanes, const uint64_t start[8]) {
    memcpy(lanes, start, sizeof(xxh3_lanes));
}

static inline void xxh3_lanes_finish(xxh3_lanes lanes, uint64_t result[8]) {
    memcpy(result, lanes, sizeof(xxh3_lanes));
}

/* Two loops without a dependence between lanes, over a copy of the input that the compiler can
 * see does not alias the lanes: that is the shape which gets vectorised. */
static inline void xxh3_stripe(xxh3_lanes lanes, const uint8_t *in, const uint8_t *key) {
    uint64_t data[8];
    for (int i = 0; i < 8; i++) {
        data[i] = xxh3_load64(in + 8 * i);
    }
    for (int i = 0; i < 8; i++) {
        const uint64_t keyed = data[i] ^ xxh3_load64(key + 8 * i);
        /* The neighbour's plain input is added, so that a zero factor loses no information. */
        lanes[i] += data[i ^ 1] + (keyed & UINT32_MAX) * (keyed >> 32);
    }
}

static inline void xxh3_scramble(xxh3_lanes lanes, const uint8_t *key) {
    for (int i = 0; i < 8; i++) {
        const uint64_t folded = lanes[i] ^ (lanes[i] >> 47);
        lanes[i] = (folded ^ xxh3_load64(key + 8 * i)) * XXH3_P32_1;
    }
}

#endif

#if defined(__GNUC__)
__attribute__((noinline, unused))
#endif
static uint64_t xxh3_long(const uint8_t *in, size_t length, uint64_t seed) {
    static const uint64_t start[8] = {XXH3_P32_3, XXH3_P64_1, XXH3_P64_2, XXH3_P64_3,
                                      XXH3_P64_4, XXH3_P32_2, XXH3_P64_5, XXH3_P32_1};
    uint8_t derived[XXH3_SECRET_SIZE];
    const uint8_t *secret = xxh3_secret;
    if (seed != 0) {
        for (size_t at = 0; at < XXH3_SECRET_SIZE; at += 16) {
            const uint64_t pair[2] = {xxh3_le64(xxh3_load64(xxh3_secret + at) + seed),
                                      xxh3_le64(xxh3_load64(xxh3_secret + at + 8) - seed)};
            memcpy(derived + at, pair, sizeof pair);
        }
        secret = derived;
    }

    xxh3_lanes lanes;
    xxh3_lanes_start(lanes, start);
    const uint8_t *const last = in + length - XXH3_STRIPE;
    /* Counted from length - 1, so that an exact multiple keeps its final stripe (or block) for the
     * steps below: the last stripe is always taken from the end, and with a key of its own. */
    for (size_t blocks = (length - 1) / XXH3_BLOCK; blocks > 0; blocks--) {
        for (size_t i = 0; i < XXH3_STRIPES_PER_BLOCK; i++) {
            xxh3_stripe(lanes, in + XXH3_STRIPE * i, secret + 8 * i);
        }
        xxh3_scramble(lanes, secret + XXH3_SECRET_SIZE - XXH3_STRIPE);
        in += XXH3_BLOCK;
    }
    for (size_t i = 0, stripes = (length - 1) % XXH3_BLOCK / XXH3_STRIPE; i < stripes; i++) {
        xxh3_stripe(lanes, in + XXH3_STRIPE * i, secret + 8 * i);
    }
    xxh3_stripe(lanes, last, secret + XXH3_SECRET_SIZE - XXH3_STRIPE - 7);

    uint64_t result[8];
    xxh3_lanes_finish(lanes, result);
    uint64_t hash = length * XXH3_P64_1;
    for (size_t i = 0; i < 8; i += 2) {
        hash += xxh3_mul_fold(result[i] ^ xxh3_load64(secret + 11 + 8 * i),
                              result[i + 1] ^ xxh3_load64(secret + 11 + 8 * i + 8));
    }
    return xxh3_avalanche(hash);
}

static inline uint64_t xxh3_64(const void *data, size_t length, uint64_t seed) {
    const uint8_t *const in = data;
    if (length <= 16) {
        return xxh3_0_to_16(in, length, seed);
    }
    if (length <= 128) {
        return xxh3_17_to_128(in, length, seed);
    }
    if (length <= 240) {
        return xxh3_129_to_240(in, length, seed);
    }
    return xxh3_long(in, length, seed);
}

#endif
