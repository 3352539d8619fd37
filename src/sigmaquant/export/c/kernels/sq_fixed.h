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

static inline void sq_put_word(void *address, uint32_t word)
{
    (void)memcpy(address, &word, sizeof word);
}
#if defined(__clang__) || !defined(__GNUC__)
#define SQ_SATURATE(value) ((int8_t)__ssat((value), 8))
#else /* gcc's __ssat is the same with a conversion that gcc itself warns of */
#define SQ_SATURATE(value) ((int8_t)__builtin_arm_ssat((value), 8))
#endif
#else
#define SQ_DSP 0
#define SQ_SATURATE(value) sq_clamp((value), INT8_MIN, INT8_MAX)
#endif

/* Inner loops that need all registers for themselves. */
#if defined(__GNUC__)
#define SQ_APART __attribute__((noinline))
#else
#define SQ_APART
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

static inline int8_t sq_clamp_wide(int64_t value, int32_t low, int32_t high)
{
    const int64_t above = (value < low) ? low : value;
    return (int8_t)((above > high) ? high : above);
}

/* Rounded down; C rounds towards zero. The divisor is positive. */
static inline int64_t sq_floor_divide(int64_t value, int64_t divisor)
{
    const int64_t quotient = value / divisor;
    return ((value < 0) && (quotient * divisor != value)) ? quotient - 1 : quotient;
}

/* The largest integer whose square is not above the value, which is not negative. */
int64_t sq_square_root(int64_t value);

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

/* The same in one multiplication: the upper half of offset + sum * mantissa, shifted right, for what int8 saturates.
 * With f = mantissa * 2^-shift of the layer and gain = 2^g,
 *     zero + round(f * (sum * gain + bias)) = floor((sum * mantissa + C / 2^g) / 2^(shift - g)),
 *     C = bias * mantissa + 2^(shift - 1) + zero * 2^shift,
 * exactly, and C / 2^g may be rounded down, since the rest of the numerator is whole. */
typedef struct {
    int64_t offset;
    int32_t mantissa;
    int32_t shift; /* negative: the numbers do not fit, use sq_finish */
} sq_scaling;

#define SQ_SCALING 8 /* elements of scratch */

/* g of a layer. */
static inline int32_t sq_gain_bits(const sq_layer *layer)
{
    int32_t bits = 0;
    while (((int32_t)1 << bits) < layer->gain) {
        bits++;
    }
    return bits;
}

/* For a channel. The shift's part beyond 32 bits cannot be negative, so where a factor is too large, codes have to be
 * multiplied by the `rest` of the gain. */
static inline sq_scaling sq_scaling_of(const sq_layer *layer, int32_t channel, int32_t gain_bits, int32_t *rest)
{
    sq_scaling found = {0, layer->mantissa[channel], -1};
    const int32_t shift = layer->shift[channel];
    *rest = 1;
    if (found.mantissa == 0) {
        found.offset = (int64_t)layer->out_zero * ((int64_t)1 << 32);
        found.shift = 0;
    } else if ((shift >= 32) && (shift <= 54)) { /* beyond, zero * 2^shift does not fit */
        const int32_t taken = sq_min(gain_bits, shift - 32);
        *rest = (int32_t)1 << (gain_bits - taken);
        found.shift = shift - 32 - taken;
        found.offset = ((int64_t)layer->bias[channel] * found.mantissa) >> taken;
        found.offset += (int64_t)((2 * layer->out_zero + 1) * ((int32_t)1 << found.shift)) * ((int64_t)1 << 31);
    } else {
        /* sq_finish does it */
    }
    return found;
}

/* To scratch, and back from there. */
static inline void sq_put_scaling(int16_t *scratch, const sq_scaling *scaling)
{
    (void)memcpy(scratch, &scaling->offset, sizeof scaling->offset);
    (void)memcpy(scratch + 4, &scaling->mantissa, sizeof scaling->mantissa);
    (void)memcpy(scratch + 6, &scaling->shift, sizeof scaling->shift);
}

static inline sq_scaling sq_get_scaling(const int16_t *scratch)
{
    sq_scaling scaling; /* field by field, as registers */
    (void)memcpy(&scaling.offset, scratch, sizeof scaling.offset);
    (void)memcpy(&scaling.mantissa, scratch + 4, sizeof scaling.mantissa);
    (void)memcpy(&scaling.shift, scratch + 6, sizeof scaling.shift);
    return scaling;
}

static inline int8_t sq_scaled(const sq_scaling *scaling, int32_t sum)
{
    const int64_t product = scaling->offset + (int64_t)sum * scaling->mantissa;
    const int32_t code = (int32_t)(product >> 32) >> scaling->shift;
    return SQ_SATURATE(code);
}

/* What sq_scaled leaves to do where an output's grid or its clipping is narrower than int8. */
static inline void sq_bound(const sq_layer *layer, int8_t *y, int32_t count)
{
    if ((layer->low > INT8_MIN) || (layer->high < INT8_MAX)) {
        const int32_t low = layer->low;
        const int32_t high = layer->high;
        for (int32_t i = 0; i < count; i++) {
            y[i] = sq_clamp(y[i], low, high);
        }
    }
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

/* Where an inner loop along strides begins. */
static inline int32_t sq_place(const int32_t *stride, int32_t i, int32_t j, int32_t k)
{
    return i * stride[0] + j * stride[1] + k * stride[2];
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
        sq_put_word(wide + i, first);
        sq_put_word(wide + i + 2, second);
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

/* A packed row, or a piece of one, to its place among four (SQ_SPREAD), filled up with zeros. */
static inline void sq_unpack_row(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count)
{
    layer->unpack(layer, packed, codes, count);
    for (int32_t i = count; i < sq_depth(count); i++) {
        codes[SQ_SPREAD(i)] = 0;
    }
}

#endif
