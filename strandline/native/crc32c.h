/* crc32c.h -- CRC-32C (Castagnoli, reflected), by the CPU's instruction where there is one.
 *
 * Owns: the lookup tables and the choice of implementation, both made by crc32c_init().  They
 * are static, so each translation unit that includes this header has its own and must initialise
 * its own; one including file per module is the intent.
 *
 * Promises: crc32c(0, "123456789", 9) == 0xE3069283, and crc32c(crc32c(0, a), b) is the value of
 * a followed by b.  crc32c() and crc32c_portable() agree on every input, on hosts of either byte
 * order.  `data` may have any alignment, and may be NULL when `length` is 0; no byte outside
 * [data, data + length) is read.
 *
 * What must hold: crc32c_init() has returned before the first checksum is taken, and nothing runs
 * beside it.  After that the state is only read, so any thread may call.
 */
#ifndef STRANDLINE_CRC32C_H
#define STRANDLINE_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* CRC32C_STEP*: one instruction's worth of the raw (not inverted) register, and CRC32C_TARGET:
 * what a function needs in order to be allowed to use them. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
#define CRC32C_HARDWARE 1
#if defined(__clang__) && __clang_major__ >= 14
/* Here the instruction is a feature by itself, which a build may have disabled by name. */
#define CRC32C_TARGET __attribute__((target("sse4.2,crc32")))
#else
#define CRC32C_TARGET __attribute__((target("sse4.2")))
#endif
#define CRC32C_STEP8(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define CRC32C_STEP1(crc, byte) ((uint32_t)_mm_crc32_u8((crc), (byte)))
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define CRC32C_HARDWARE 1
#define CRC32C_TARGET
#define CRC32C_STEP8(crc, word) __crc32cd((crc), (word))
#define CRC32C_STEP1(crc, byte) __crc32cb((crc), (byte))
#endif

/* [k][b]: the register after byte b and then k zero bytes, for eight bytes at a time. */
static uint32_t crc32c_table[8][256];

/* The first byte of the input is the lowest of the register, whatever the host. */
static inline uint64_t crc32c_load64(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline uint32_t crc32c_portable(uint32_t crc, const void *data, size_t length) {
    const uint8_t *in = data;
    crc = ~crc;
    for (; length >= 8; length -= 8, in += 8) {
        const uint64_t word = crc32c_load64(in);
        const uint32_t low = (uint32_t)word ^ crc, high = (uint32_t)(word >> 32);
        /* Only the low half waits for the previous step.  The half that does not is summed by
         * itself, and no loop is used, to keep that chain of waits short. */
        const uint32_t free_half = crc32c_table[3][high & 0xFF] ^
                                   crc32c_table[2][(high >> 8) & 0xFF] ^
                                   crc32c_table[1][(high >> 16) & 0xFF] ^
                                   crc32c_table[0][high >> 24];
        crc = free_half ^ (crc32c_table[7][low & 0xFF] ^ crc32c_table[6][(low >> 8) & 0xFF]) ^
              (crc32c_table[5][(low >> 16) & 0xFF] ^ crc32c_table[4][low >> 24]);
    }
    for (; length > 0; length--, in++) {
        crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *in) & 0xFF];
    }
    return ~crc;
}

#if defined(CRC32C_HARDWARE)

/* The instruction has a latency of three cycles but starts every cycle, so three independent
 * streams run in the time of one.  The lane is short enough for inputs of 1 KiB to profit, and
 * long enough for joining the lanes to cost little. */
enum { CRC32C_LANE = 336 };

static int crc32c_has_hardware;

/* [d][k][b]: what byte k of a register, being b, has become after d + 1 lanes of zero bytes.  The
 * CRC is linear, so four lookups carry a register past lanes that were computed apart from it. */
static uint32_t crc32c_skip[2][4][256];

static inline uint32_t crc32c_past_lanes(int lanes, uint32_t crc) {
    uint32_t(*const skip)[256] = crc32c_skip[lanes - 1];
    return skip[0][crc & 0xFF] ^ skip[1][(crc >> 8) & 0xFF] ^ skip[2][(crc >> 16) & 0xFF] ^
           skip[3][crc >> 24];
}

/* Out of line: the joining tables and three pointers would only burden the short inputs. */
CRC32C_TARGET __attribute__((noinline, unused))
static uint32_t crc32c_three_lanes(uint32_t crc, const uint8_t *in, size_t rounds) {
    for (; rounds > 0; rounds--) {
        uint32_t second = 0, third = 0;
        for (const uint8_t *const end = in + CRC32C_LANE; in < end; in += 8) {
            crc = CRC32C_STEP8(crc, crc32c_load64(in));
            second = CRC32C_STEP8(second, crc32c_load64(in + CRC32C_LANE));
            third = CRC32C_STEP8(third, crc32c_load64(in + 2 * CRC32C_LANE));
        }
        in += 2 * CRC32C_LANE;
        crc = crc32c_past_lanes(2, crc) ^ crc32c_past_lanes(1, second) ^ third;
    }
    return crc;
}

CRC32C_TARGET __attribute__((unused))
static uint32_t crc32c_hardware(uint32_t crc, const void *data, size_t length) {
    const uint8_t *in = data;
    crc = ~crc;
    if (length >= 3 * CRC32C_LANE) {
        const size_t rounds = length / (3 * CRC32C_LANE);
        crc = crc32c_three_lanes(crc, in, rounds);
        in += rounds * (3 * CRC32C_LANE);
        length -= rounds * (3 * CRC32C_LANE);
    }
    for (; length >= 8; length -= 8, in += 8) {
        crc = CRC32C_STEP8(crc, crc32c_load64(in));
    }
    for (; length > 0; length--, in++) {
        crc = CRC32C_STEP1(crc, *in);
    }
    return ~crc;
}

static inline void crc32c_init_hardware(void) {
    static const uint8_t zeros[2 * CRC32C_LANE];
    for (int d = 0; d < 2; d++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            /* The portable code inverts going in and coming out; undone, this is linear. */
            const uint32_t one = UINT32_C(1) << bit;
            const uint32_t moved = ~crc32c_portable(~one, zeros, (size_t)(d + 1) * CRC32C_LANE);
            uint32_t *const row = crc32c_skip[d][bit / 8];
            const unsigned low = 1U << bit % 8;
            for (unsigned rest = 0; rest < low; rest++) {
                row[low + rest] = row[rest] ^ moved;
            }
        }
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    crc32c_has_hardware = __builtin_cpu_supports("sse4.2") != 0;
#else
    crc32c_has_hardware = 1;
#endif
}

#endif

/* Repeating it is harmless, as long as no checksum is being taken meanwhile. */
static inline void crc32c_init(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (UINT32_C(0x82F63B78) & (0U - (crc & 1)));
        }
        crc32c_table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (int byte = 0; byte < 256; byte++) {
            const uint32_t crc = crc32c_table[k - 1][byte];
            crc32c_table[k][byte] = (crc >> 8) ^ crc32c_table[0][crc & 0xFF];
        }
    }
#if defined(CRC32C_HARDWARE)
    crc32c_init_hardware();
#endif
}

static inline uint32_t crc32c(uint32_t crc, const void *data, size_t length) {
#if defined(CRC32C_HARDWARE)
    /* A branch and not a function pointer: it is always predicted, and a direct call is cheaper
     * than an indirect one on inputs of a few words. */
    if (crc32c_has_hardware) {
        return crc32c_hardware(crc, data, length);
    }
#endif
    return crc32c_portable(crc, data, length);
}

#endif
