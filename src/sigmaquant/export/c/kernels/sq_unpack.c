/* Bit-packed codes to int16. Eight codes always fill whole bytes, and with constant positions the compiler makes
 * straight lines of shifts and stores out of them; the linker keeps the bitwidths that a model uses. */
#include "sq.h"

static inline int32_t field(const uint8_t *packed, int32_t index, int32_t bits)
{
    const int32_t at = index * bits;
    const int32_t shift = at % 8;
    uint32_t word = packed[at / 8];
    if (shift + bits > 8) {
        word |= (uint32_t)packed[at / 8 + 1] << 8;
    }
    return (int32_t)((word >> shift) & ((1U << bits) - 1U));
}

static inline int16_t even(const uint8_t *packed, int32_t index, int32_t bits)
{
    const int32_t sign = (int32_t)1 << (bits - 1);
    return (int16_t)((field(packed, index, bits) ^ sign) - sign);
}

static inline int16_t odd(const uint8_t *packed, int32_t index, int32_t bits)
{
    return (int16_t)(2 * field(packed, index, bits) - (((int32_t)1 << bits) - 1));
}

#define SQ_UNPACK(NAME, DECODE, BITS)                                                      \
    void NAME(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count) \
    {                                                                                      \
        int32_t left = count;                                                              \
        (void)layer;                                                                       \
        for (; left >= 8; left -= 8) {                                                     \
            codes[SQ_SPREAD(0)] = DECODE(packed, 0, BITS);                                 \
            codes[SQ_SPREAD(1)] = DECODE(packed, 1, BITS);                                 \
            codes[SQ_SPREAD(2)] = DECODE(packed, 2, BITS);                                 \
            codes[SQ_SPREAD(3)] = DECODE(packed, 3, BITS);                                 \
            codes[SQ_SPREAD(4)] = DECODE(packed, 4, BITS);                                 \
            codes[SQ_SPREAD(5)] = DECODE(packed, 5, BITS);                                 \
            codes[SQ_SPREAD(6)] = DECODE(packed, 6, BITS);                                 \
            codes[SQ_SPREAD(7)] = DECODE(packed, 7, BITS);                                 \
            packed += (BITS);                                                              \
            codes += SQ_SPREAD(8);                                                         \
        }                                                                                  \
        for (int32_t i = 0; i < left; i++) {                                               \
            codes[SQ_SPREAD(i)] = DECODE(packed, i, BITS);                                 \
        }                                                                                  \
    }

SQ_UNPACK(sq_unpack_2, even, 2)
SQ_UNPACK(sq_unpack_3, even, 3)
SQ_UNPACK(sq_unpack_4, even, 4)
SQ_UNPACK(sq_unpack_5, even, 5)
SQ_UNPACK(sq_unpack_6, even, 6)
SQ_UNPACK(sq_unpack_7, even, 7)
SQ_UNPACK(sq_unpack_8, even, 8)
SQ_UNPACK(sq_unpack_odd_2, odd, 2)
SQ_UNPACK(sq_unpack_odd_3, odd, 3)
SQ_UNPACK(sq_unpack_odd_4, odd, 4)
SQ_UNPACK(sq_unpack_odd_5, odd, 5)
SQ_UNPACK(sq_unpack_odd_6, odd, 6)
SQ_UNPACK(sq_unpack_odd_7, odd, 7)
