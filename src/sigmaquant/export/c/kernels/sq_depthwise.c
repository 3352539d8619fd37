/* Depthwise convolution: four neighbouring channels at a time, over the taps that lie inside the input. */
#include "sq_fixed.h"

#define LANES 4

/* The part of the input and of the weights that one output position needs. */
typedef struct {
    const int8_t *x;      /* first tap inside, first lane */
    const int16_t *codes; /* its codes, [tap][lane] */
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
        const int32_t high = sq_word(codes + 2);                                       \
        const int32_t even = __sxtab16(offset, (int8x4_t)word);                        \
        const int32_t odd = __sxtab16(offset, (int8x4_t)((word >> 8) | (word << 24))); \
        s0 = __smlabb(even, low, s0);                                                  \
        s1 = __smlabt(odd, low, s1);                                                   \
        s2 = __smlatb(even, high, s2);                                                 \
        s3 = __smlatt(odd, high, s3);                                                  \
        x += step;                                                                     \
        codes += LANES;                                                                \
    } while (0)
#else
#define SQ_TAP()                          \
    do {                                  \
        s0 += (x[0] - zero) * codes[0];   \
        s1 += (x[1] - zero) * codes[1];   \
        s2 += (x[2] - zero) * codes[2];   \
        s3 += (x[3] - zero) * codes[3];   \
        x += step;                        \
        codes += LANES;                   \
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

static inline sums some_lanes(const patch *p, int32_t lanes)
{
    sums result = {{0, 0, 0, 0}};
    for (int32_t row = 0; row < p->rows; row++) {
        for (int32_t column = 0; column < p->columns; column++) {
            const int8_t *const x = p->x + row * p->x_row + column * p->x_column;
            const int16_t *const codes = p->codes + row * p->codes_row + column * LANES;
            for (int32_t i = 0; i < lanes; i++) {
                result.lane[i] += (x[i] - p->zero) * codes[i];
            }
        }
    }
    return result;
}

/* All positions of up to four channels, the first of which x and y point to. */
static void convolve(const sq_depthwise_params *params, const sq_channel channels[LANES], int32_t lanes, const int8_t *x,
                     int8_t *y, const int16_t *codes)
{
    const sq_layer layer = params->layer; /* bytes of y might be the parameters' own, as far as the compiler knows */
    const sq_window w = params->window;
    patch p;
    p.x = x;
    p.codes = codes;
    p.x_row = w.dilation_y * w.width * w.channels;
    p.x_column = w.dilation_x * w.channels;
    p.codes_row = w.kernel_width * LANES;
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
                p.codes = codes + rows.first * p.codes_row + columns.first * LANES;
            }
            if (lanes == LANES) {
                const sums found = all_lanes(&p);
                y[0] = sq_finish(&layer, &channels[0], found.lane[0]);
                y[1] = sq_finish(&layer, &channels[1], found.lane[1]);
                y[2] = sq_finish(&layer, &channels[2], found.lane[2]);
                y[3] = sq_finish(&layer, &channels[3], found.lane[3]);
            } else {
                const sums found = some_lanes(&p, lanes);
                for (int32_t i = 0; i < lanes; i++) {
                    y[i] = sq_finish(&layer, &channels[i], found.lane[i]);
                }
            }
            y += w.channels;
        }
    }
}

void sq_depthwise(const sq_depthwise_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const int32_t taps = params->window.kernel_height * params->window.kernel_width;
    const int32_t count = params->window.channels;
    for (int32_t first = 0; first < count; first += LANES) {
        const int32_t lanes = sq_min(LANES, count - first);
        sq_channel channels[LANES];
        for (int32_t i = 0; i < LANES; i++) {
            channels[i] = sq_channel_of(&params->layer, sq_min(first + i, count - 1));
        }
        sq_unpack_row(&params->layer, first / LANES, scratch, taps * LANES);
        convolve(params, channels, lanes, x + first, y + first, scratch);
    }
}
