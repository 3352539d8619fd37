/* Fixed-point arithmetic that the kernels share. */
#ifndef SQ_FIXED_H
#define SQ_FIXED_H

#include "sq.h"

/* C99 leaves the right shift of negative numbers to the compiler; every one this code is meant for extends the sign. */
typedef char sq_right_shift_must_extend_the_sign[((-3 >> 1) == -2 && ((int64_t)-3 >> 1) == -2) ? 1 : -1];

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN) && !defined(SQ_PLAIN)
#define SQ_DSP 1
#include <arm_acle.h>

/* Words at any address: the compiler makes one load or store of it. */
static inline int32_t sq_word(const void *address)
{
    int32_t word;
    (void)memcpy(&word, address, sizeof word);
    return word;
}
#else
#define SQ_DSP 0
#endif

static inline int32_t sq_min(int32_t a, int32_t b)
{
    return (a < b) ? a : b;
}

static inline int32_t sq_max(int32_t a, int32_t b)
{
    return (a > b) ? a : b;
}

static inline int8_t sq_clamp(int32_t value, int32_t low, int32_t high)
{
    return (int8_t)sq_min(sq_max(value, low), high);
}

/* For factors of a quarter and more: (product + 2^(shift-1)) >> shift, or a bound far outside of every grid. */
int32_t sq_scale_up(int64_t product, uint32_t shift);

/* (value * mantissa + 2^(shift-1)) >> shift, rounded half up; mantissa below 2^31, shift in 1..62. */
static inline int32_t sq_scale(int32_t value, int32_t mantissa, uint32_t shift)
{
    const int64_t product = (int64_t)value * mantissa;
    if (shift <= 32U) {
        return sq_scale_up(product, shift);
    }
    /* The low word takes no part in the rounding. */
    return (((int32_t)(product >> 32) >> (shift - 33U)) + 1) >> 1;
}

/* What layers need for a channel, loaded once for two sums: a store of int8 ends what a compiler knows about memory. */
typedef struct {
    int32_t bias;
    int32_t mantissa;
    uint32_t shift;
} sq_channel;

static inline sq_channel sq_channel_of(const sq_layer *layer, int32_t channel)
{
    const sq_channel found = {layer->bias[channel], layer->mantissa[channel], layer->shift[channel]};
    return found;
}

static inline int8_t sq_finish(const sq_layer *layer, const sq_channel *channel, int32_t sum)
{
    const int32_t total = sum * layer->gain + channel->bias;
    const int32_t scaled = sq_scale(total, channel->mantissa, channel->shift);
    return sq_clamp(scaled + layer->out_zero, layer->low, layer->high);
}

/* The part [first, last) of a kernel's `size` taps that lies inside an axis of `length`, when tap 0 is at `start`. */
typedef struct {
    int32_t first;
    int32_t last;
} sq_span;

static inline sq_span sq_inside(int32_t start, int32_t size, int32_t dilation, int32_t length)
{
    sq_span span = {0, size};
    if ((start >= 0) && (start + (size - 1) * dilation < length)) { /* by far the most positions */
        return span;
    }
    while ((span.first < size) && (start + span.first * dilation < 0)) {
        span.first++;
    }
    while ((span.last > span.first) && (start + (span.last - 1) * dilation >= length)) {
        span.last--;
    }
    return span;
}

/* Codes as int16 relative to their zero-point. */
static inline void sq_widen(const int8_t *x, int16_t *wide, int32_t count, int32_t zero)
{
    int32_t i = 0;
#if SQ_DSP
    const int32_t offset = (int32_t)(((uint32_t)-zero & 0xFFFFU) | ((uint32_t)-zero << 16));
    for (; i + 4 <= count; i += 4) {
        const uint32_t word = (uint32_t)sq_word(x + i);
        const uint32_t even = (uint32_t)__sxtab16(offset, (int8x4_t)word);
        const uint32_t odd = (uint32_t)__sxtab16(offset, (int8x4_t)((word >> 8) | (word << 24)));
        const uint32_t first = (even & 0xFFFFU) | (odd << 16);
        const uint32_t second = (even >> 16) | (odd & 0xFFFF0000U);
        (void)memcpy(wide + i, &first, sizeof first);
        (void)memcpy(wide + i + 2, &second, sizeof second);
    }
#endif
    for (; i < count; i++) {
        wide[i] = (int16_t)(x[i] - zero);
    }
}

static inline void sq_zero(int16_t *wide, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        wide[i] = 0;
    }
}

/* A row's length in scratch: a multiple of what the inner loops take at a time. */
static inline int32_t sq_depth(int32_t count)
{
    return (count + 3) & ~3;
}

/* A packed row to scratch, filled up with zeros. */
static inline void sq_unpack_row(const sq_layer *layer, int32_t row, int16_t *codes, int32_t count)
{
    layer->unpack(layer->codes + row * layer->row_bytes, codes, count);
    sq_zero(codes + count, sq_depth(count) - count);
}

#endif
