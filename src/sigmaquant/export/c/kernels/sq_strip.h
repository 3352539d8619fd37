/* Inner loops of depthwise convolutions of 3 x 3 taps without dilation. A strip has two input rows of four channels as
 * int16, [x, channel, row], so that two rows of a column are one word. Two strips are the four rows that two output
 * rows need, and the lower one is the upper one of the next two. */
#ifndef SQ_STRIP_H
#define SQ_STRIP_H

#include "sq_fixed.h"

#define LANES 4
#define SLAB (2 * LANES) /* one column of a strip */
#define ROW 12           /* a channel's codes: of each column those of the kernel's rows 0, 1, 1, 2 */

#if SQ_DSP
typedef int32_t pair;

static inline pair pair_at(const int16_t *codes)
{
    return sq_word(codes);
}

/* Rows 0, 1 and 2 of a column times codes 0, 1 and 2. */
static inline int32_t upper(pair x, pair next_x, pair codes, pair next_codes, int32_t sum)
{
    return __smlabt(next_x, next_codes, __smlad(x, codes, sum));
}

/* Rows 1, 2 and 3. */
static inline int32_t lower(pair x, pair next_x, pair codes, pair next_codes, int32_t sum)
{
    return __smlatb(x, codes, __smlad(next_x, next_codes, sum));
}

static inline int32_t first_upper(pair x, pair next_x, pair codes, pair next_codes)
{
    return __smlabt(next_x, next_codes, __smuad(x, codes));
}

static inline int32_t first_lower(pair x, pair next_x, pair codes, pair next_codes)
{
    return __smlatb(x, codes, __smuad(next_x, next_codes));
}
#else
typedef struct {
    int32_t low;
    int32_t high;
} pair;

static inline pair pair_at(const int16_t *codes)
{
    const pair found = {codes[0], codes[1]};
    return found;
}

static inline int32_t upper(pair x, pair next_x, pair codes, pair next_codes, int32_t sum)
{
    return sum + x.low * codes.low + x.high * codes.high + next_x.low * next_codes.high;
}

static inline int32_t lower(pair x, pair next_x, pair codes, pair next_codes, int32_t sum)
{
    return sum + x.high * codes.low + next_x.low * next_codes.low + next_x.high * next_codes.high;
}

static inline int32_t first_upper(pair x, pair next_x, pair codes, pair next_codes)
{
    return upper(x, next_x, codes, next_codes, 0);
}

static inline int32_t first_lower(pair x, pair next_x, pair codes, pair next_codes)
{
    return lower(x, next_x, codes, next_codes, 0);
}
#endif

/* One channel of neighbouring positions. */
typedef struct {
    const int16_t *strip;
    const int16_t *next_strip;
    int32_t strip_step;
    const int16_t *codes;
    int8_t *y;
    int32_t y_step; /* from position to position */
    int32_t y_row;
    int32_t count;
} run;

#define SQ_CODES()                         \
    const int16_t *x = r->strip;           \
    const int16_t *next_x = r->next_strip; \
    const pair a = pair_at(r->codes);      \
    const pair b = pair_at(r->codes + 2);  \
    const pair c = pair_at(r->codes + 4);  \
    const pair d = pair_at(r->codes + 6);  \
    const pair e = pair_at(r->codes + 8);  \
    const pair f = pair_at(r->codes + 10)

/* For a horizontal stride of one. */
static SQ_APART void two_rows(const run *r, const sq_scaling *given)
{
    SQ_CODES();
    const sq_scaling scaling = *given;
    int8_t *y = r->y;
    const int32_t y_row = r->y_row;
    const int32_t y_step = r->y_step;
    for (const int16_t *const end = x + r->count * SLAB; x != end; x += SLAB) {
        pair v = pair_at(x);
        pair w = pair_at(next_x);
        int32_t s = first_upper(v, w, a, b);
        int32_t t = first_lower(v, w, a, b);
        v = pair_at(x + SLAB);
        w = pair_at(next_x + SLAB);
        s = upper(v, w, c, d, s);
        t = lower(v, w, c, d, t);
        v = pair_at(x + 2 * SLAB);
        w = pair_at(next_x + 2 * SLAB);
        s = upper(v, w, e, f, s);
        t = lower(v, w, e, f, t);
        next_x += SLAB;
        y[y_row] = sq_scaled(&scaling, t);
        *y = sq_scaled(&scaling, s);
        y += y_step;
    }
}

static SQ_APART void one_row(const run *r, const sq_scaling *scaling)
{
    SQ_CODES();
    const int32_t x_step = r->strip_step;
    int8_t *y = r->y;
    const int32_t y_step = r->y_step;
    for (int32_t left = r->count; left > 0; left--) {
        int32_t s = first_upper(pair_at(x), pair_at(next_x), a, b);
        s = upper(pair_at(x + SLAB), pair_at(next_x + SLAB), c, d, s);
        s = upper(pair_at(x + 2 * SLAB), pair_at(next_x + 2 * SLAB), e, f, s);
        *y = sq_scaled(scaling, s);
        y += y_step;
        x += x_step;
        next_x += x_step;
    }
}

/* Two input rows, or what stands for them outside, to a strip. */
typedef struct {
    const int8_t *x;
    const int8_t *next_x;
    int32_t step;
    int32_t next_step;
} row_pair;

static SQ_APART void widen_rows(const row_pair *rows, int32_t channels, int32_t zero, int32_t count, int16_t *slab)
{
    const int8_t *x = rows->x;
    const int8_t *next_x = rows->next_x;
    const int32_t step = rows->step;
    const int32_t next_step = rows->next_step;
#if SQ_DSP
    const int32_t offset = (int32_t)(((uint32_t)-zero & 0xFFFFU) | ((uint32_t)-zero << 16));
    for (int32_t left = (channels == LANES) ? count : 0; left > 0; left--) {
        const uint32_t word = (uint32_t)sq_word(x);
        const uint32_t next_word = (uint32_t)sq_word(next_x);
        const uint32_t first = (word & 0xFFFFU) | (next_word << 16); /* channels 0 and 1 of both rows */
        const uint32_t last = (word >> 16) | (next_word & 0xFFFF0000U);
        sq_put_word(slab, (uint32_t)__sxtab16(offset, (int8x4_t)first));
        sq_put_word(slab + 2, (uint32_t)__sxtab16(offset, (int8x4_t)((first >> 8) | (first << 24))));
        sq_put_word(slab + 4, (uint32_t)__sxtab16(offset, (int8x4_t)last));
        sq_put_word(slab + 6, (uint32_t)__sxtab16(offset, (int8x4_t)((last >> 8) | (last << 24))));
        x += step;
        next_x += next_step;
        slab += SLAB;
    }
    if (channels == LANES) {
        return;
    }
#endif
    for (int32_t left = count; left > 0; left--) {
        for (int32_t i = 0; i < channels; i++) {
            slab[2 * i] = (int16_t)(x[i] - zero);
            slab[2 * i + 1] = (int16_t)(next_x[i] - zero);
        }
        x += step;
        next_x += next_step;
        slab += SLAB;
    }
}

#endif
