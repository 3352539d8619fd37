/* Depthwise convolution, four neighbouring channels at a time. Kernels of 3 x 3 without dilation go along strips, where
 * there are positions enough; others take their taps from the input. */
#include "sq_strip.h"

#define TAP SQ_SPREAD(LANES) /* from tap to tap of unpacked codes */

/* Up to four channels. */
typedef struct {
    const uint8_t *packed;
    int32_t first;
    int32_t count;
} lanes;

/* -- 3 x 3 taps -------------------------------------------------------------------------------------------------- */

/* Columns `left` to `left + slabs` of the two input rows from `iy` on. */
static void fill_strip(const sq_depthwise_params *params, const lanes *group, const int8_t *x, int32_t iy, int32_t left,
                       int32_t slabs, int16_t *strip)
{
    const sq_window *const w = &params->window;
    const int32_t zero = params->layer.in_zero;
    const int8_t outside[LANES] = {(int8_t)zero, (int8_t)zero, (int8_t)zero, (int8_t)zero};
    const int32_t first = sq_min(sq_max(-left, 0), slabs);
    const int32_t last = sq_max(first, sq_min(w->width - left, slabs));
    row_pair rows = {outside, outside, 0, 0};
    sq_zero(strip, first * SLAB);
    sq_zero(strip + last * SLAB, (slabs - last) * SLAB);
    if ((iy >= 0) && (iy < w->height) && (last > first)) {
        rows.x = x + (iy * w->width + left + first) * w->channels;
        rows.step = w->channels;
    }
    if ((iy + 1 >= 0) && (iy + 1 < w->height) && (last > first)) {
        rows.next_x = x + ((iy + 1) * w->width + left + first) * w->channels;
        rows.next_step = w->channels;
    }
    widen_rows(&rows, group->count, zero, last - first, strip + first * SLAB);
}

/* All positions of a group, by strips from top to bottom. */
static void convolve_3x3(const sq_depthwise_params *params, const lanes *group, const sq_scaling scalings[LANES],
                         const int8_t *x, int8_t *y, int16_t *codes)
{
    const sq_window *const w = &params->window;
    const int32_t most = ((w->stride_y == 1) && (w->stride_x == 1)) ? 2 : 1; /* output rows at a time */
    const int32_t y_row = w->out_width * w->channels;
    for (int32_t ox = 0; ox < w->out_width; ox += params->span) {
        const int32_t count = sq_min(params->span, w->out_width - ox);
        const int32_t slabs = (count - 1) * w->stride_x + 3;
        const int32_t left = ox * w->stride_x - w->pad_left;
        int16_t *strip = codes + LANES * ROW;
        int16_t *next_strip = strip + params->slabs * SLAB;
        int32_t oy = 0;
        while (oy < w->out_height) {
            const int32_t top = oy * w->stride_y - w->pad_top;
            if ((oy == 0) || (most * w->stride_y != 2)) { /* otherwise the lower two rows of before */
                fill_strip(params, group, x, top, left, slabs, strip);
            }
            fill_strip(params, group, x, top + 2, left, slabs, next_strip);
            run r = {strip, next_strip, w->stride_x * SLAB, codes, y + oy * y_row + ox * w->channels, w->channels,
                     y_row, count};
            const int32_t rows = sq_min(most, w->out_height - oy);
            for (int32_t i = 0; i < group->count; i++) {
                if (rows == 2) {
                    two_rows(&r, &scalings[i]);
                } else {
                    one_row(&r, &scalings[i]);
                }
                r.strip += 2;
                r.next_strip += 2;
                r.codes += ROW;
                r.y++;
            }
            int16_t *const before = strip;
            strip = next_strip;
            next_strip = before;
            oy += rows;
        }
    }
}

/* Scalings, and unpacked codes in the order of ROW with what is left of the gain; says whether all scalings fit. */
static int32_t prepare(const sq_layer *layer, const lanes *group, const int16_t *codes, int16_t *rows,
                       sq_scaling scalings[LANES])
{
    const int32_t gain_bits = sq_gain_bits(layer);
    int32_t fits = 1;
    for (int32_t i = 0; i < LANES; i++) {
        int32_t rest = 1;
        scalings[i] = sq_scaling_of(layer, group->first + sq_min(i, group->count - 1), gain_bits, &rest);
        fits = (scalings[i].shift < 0) ? 0 : fits;
        for (int32_t column = 0; column < 3; column++) {
            const int16_t *const top = codes + column * TAP + SQ_SPREAD(i);
            rows[0] = (int16_t)(top[0] * rest);
            rows[1] = (int16_t)(top[3 * TAP] * rest);
            rows[2] = rows[1];
            rows[3] = (int16_t)(top[6 * TAP] * rest);
            rows += 4;
        }
    }
    return fits;
}

/* -- any kernel -------------------------------------------------------------------------------------------------- */

/* The part of the input and of the weights that one output position needs. */
typedef struct {
    const int8_t *x;      /* first tap inside, first lane */
    const int16_t *codes; /* its codes, as unpacked: [tap][lane] */
    int32_t rows;         /* taps inside */
    int32_t columns;
    int32_t x_row; /* steps from tap to tap */
    int32_t x_column;
    int32_t codes_row;
    int32_t zero;
} patch;

typedef struct {
    int32_t lane[LANES];
} sums;

#if SQ_DSP
#define SQ_TAP()                                                                       \
    do {                                                                               \
        const uint32_t word = (uint32_t)sq_word(x);                                    \
        const int32_t low = sq_word(codes);                                            \
        const int32_t high = sq_word(codes + SQ_SPREAD(2));                            \
        const int32_t even = __sxtab16(offset, (int8x4_t)word);                        \
        const int32_t odd = __sxtab16(offset, (int8x4_t)((word >> 8) | (word << 24))); \
        s0 = __smlabb(even, low, s0);                                                  \
        s1 = __smlabt(odd, low, s1);                                                   \
        s2 = __smlatb(even, high, s2);                                                 \
        s3 = __smlatt(odd, high, s3);                                                  \
        x += step;                                                                     \
        codes += TAP;                                                                  \
    } while (0)
#else
#define SQ_TAP()                                   \
    do {                                           \
        s0 += (x[0] - zero) * codes[0];            \
        s1 += (x[1] - zero) * codes[1];            \
        s2 += (x[2] - zero) * codes[SQ_SPREAD(2)]; \
        s3 += (x[3] - zero) * codes[SQ_SPREAD(3)]; \
        x += step;                                 \
        codes += TAP;                              \
    } while (0)
#endif

static inline sums all_lanes(const patch *p)
{
    int32_t s0 = 0;
    int32_t s1 = 0;
    int32_t s2 = 0;
    int32_t s3 = 0;
    const int32_t step = p->x_column;
    const int8_t *x_row = p->x;
    const int16_t *codes_row = p->codes;
#if SQ_DSP
    const int32_t offset = (int32_t)(((uint32_t)-p->zero & 0xFFFFU) | ((uint32_t)-p->zero << 16));
#else
    const int32_t zero = p->zero;
#endif
    for (int32_t row = p->rows; row > 0; row--) {
        const int8_t *x = x_row;
        const int16_t *codes = codes_row;
        int32_t column = p->columns;
        for (; column >= 3; column -= 3) {
            SQ_TAP();
            SQ_TAP();
            SQ_TAP();
        }
        for (; column > 0; column--) {
            SQ_TAP();
        }
        x_row += p->x_row;
        codes_row += p->codes_row;
    }
    const sums result = {{s0, s1, s2, s3}};
    return result;
}

static inline sums some_lanes(const patch *p, int32_t count)
{
    sums result = {{0, 0, 0, 0}};
    for (int32_t row = 0; row < p->rows; row++) {
        for (int32_t column = 0; column < p->columns; column++) {
            const int8_t *const x = p->x + row * p->x_row + column * p->x_column;
            const int16_t *const codes = p->codes + row * p->codes_row + column * TAP;
            for (int32_t i = 0; i < count; i++) {
                result.lane[i] += (x[i] - p->zero) * codes[SQ_SPREAD(i)];
            }
        }
    }
    return result;
}

/* All positions of a group. */
static void convolve(const sq_depthwise_params *params, const lanes *group, const int8_t *x, int8_t *y,
                     const int16_t *codes)
{
    const sq_layer layer = params->layer; /* bytes of y might be the parameters' own, as far as the compiler knows */
    const sq_window w = params->window;
    sq_channel channels[LANES];
    for (int32_t i = 0; i < LANES; i++) {
        channels[i] = sq_channel_of(&layer, group->first + sq_min(i, group->count - 1));
    }
    patch p;
    p.x = x;
    p.codes = codes;
    p.x_row = w.dilation_y * w.width * w.channels;
    p.x_column = w.dilation_x * w.channels;
    p.codes_row = w.kernel_width * TAP;
    p.zero = layer.in_zero;
    for (int32_t oy = 0; oy < w.out_height; oy++) {
        const int32_t top = oy * w.stride_y - w.pad_top;
        const sq_span rows = sq_inside(top, w.kernel_height, w.dilation_y, w.height);
        const int32_t row = (top + rows.first * w.dilation_y) * w.width;
        for (int32_t ox = 0; ox < w.out_width; ox++) {
            const int32_t left = ox * w.stride_x - w.pad_left;
            const sq_span columns = sq_inside(left, w.kernel_width, w.dilation_x, w.width);
            p.columns = columns.last - columns.first;
            p.rows = (p.columns > 0) ? rows.last - rows.first : 0;
            if (p.rows > 0) {
                p.x = x + (row + left + columns.first * w.dilation_x) * w.channels;
                p.codes = codes + rows.first * p.codes_row + columns.first * TAP;
            }
            if (group->count == LANES) {
                const sums found = all_lanes(&p);
                y[0] = sq_finish(&layer, &channels[0], found.lane[0]);
                y[1] = sq_finish(&layer, &channels[1], found.lane[1]);
                y[2] = sq_finish(&layer, &channels[2], found.lane[2]);
                y[3] = sq_finish(&layer, &channels[3], found.lane[3]);
            } else {
                const sums found = some_lanes(&p, group->count);
                for (int32_t i = 0; i < group->count; i++) {
                    y[i] = sq_finish(&layer, &channels[i], found.lane[i]);
                }
            }
            y += w.channels;
        }
    }
}

void sq_depthwise(const sq_depthwise_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const sq_window *const w = &params->window;
    const sq_layer *const layer = &params->layer;
    const int32_t count = w->kernel_height * w->kernel_width * LANES;
    int16_t *const codes = (params->span > 0) ? (scratch + LANES * ROW) : scratch; /* where strips will be */
    lanes group = {layer->codes, 0, 0};
    for (; group.first < w->channels; group.first += LANES) {
        const int8_t *const from = x + group.first;
        int8_t *const to = y + group.first;
        sq_scaling scalings[LANES];
        group.count = sq_min(LANES, w->channels - group.first);
        layer->unpack(layer, group.packed, codes, count);
        if ((params->span > 0) && (prepare(layer, &group, codes, scratch, scalings) != 0)) {
            convolve_3x3(params, &group, scalings, from, to, scratch);
        } else {
            convolve(params, &group, from, to, codes);
        }
        group.packed += layer->row_bytes;
    }
    if (params->span > 0) {
        sq_bound(layer, y, w->out_height * w->out_width * w->channels);
    }
}
