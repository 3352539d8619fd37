/* Convolution as a matrix product: rows of weights, unpacked once for a block of output channels, times columns of
 * activations. The columns of neighbouring positions overlap in a strip [x, kernel_height, channels] of int16, so that
 * each activation is widened once for all the taps of a kernel row; rows lie in the same order. */
#include "sq_dot.h"
#include "sq_rows.h"

/* Sums of a four's first `count` rows to codes. */
static void finish(const sq_layer *layer, const int16_t *scalings, const sq_sums *sums, int32_t channel, int32_t count,
                   int8_t *y)
{
    for (int32_t i = 0; i < count; i++) {
        const sq_scaling scaling = sq_get_scaling(scalings + i * SQ_SCALING);
        if (scaling.shift >= 0) {
            y[i] = sq_scaled(&scaling, sums->row[i]);
        } else {
            const sq_channel given = sq_channel_of(layer, channel + i);
            y[i] = sq_finish(layer, &given, sums->row[i]);
        }
    }
}

/* One position of the rows from `first` on. */
static SQ_APART void multiply(const sq_layer *layer, const sq_row_block *block, int32_t first, const int16_t *column,
                              int8_t *y)
{
    const sq_sums none = {{0, 0, 0, 0}};
    const int32_t depth = block->depth;
    const int16_t *rows = block->rows + first * (depth + SQ_SCALING);
    for (int32_t r = first; r < block->count; r += SQ_ROWS) {
        const sq_sums sums = sq_dot(rows, column, depth, none);
        rows += SQ_ROWS * depth;
        finish(layer, rows, &sums, block->channel + r, sq_min(SQ_ROWS, block->count - r), y + r);
        rows += SQ_ROWS * SQ_SCALING;
    }
}

/* Two positions of one row. */
#define SQ_FINISH_ROW(R)                                 \
    do {                                                 \
        const sq_scaling scaling = sq_get_scaling(rows); \
        y[gap] = sq_scaled(&scaling, p.second.row[(R)]); \
        *y = sq_scaled(&scaling, p.first.row[(R)]);      \
        y++;                                             \
        rows += SQ_SCALING;                              \
    } while (0)

/* All fours of a block, where all scalings fit. */
#define SQ_MULTIPLY_PAIRS(DOT)                                                     \
    do {                                                                           \
        const sq_positions at = *given;                                               \
        const int32_t depth = block->depth;                                        \
        const int32_t gap = at.gap;                                                \
        const int16_t *column = at.column;                                         \
        int8_t *position = at.y;                                                   \
        for (int32_t pairs = at.count / 2; pairs > 0; pairs--) {                   \
            const int16_t *rows = block->rows;                                     \
            int8_t *y = position;                                                  \
            for (int32_t left = block->count; left >= SQ_ROWS; left -= SQ_ROWS) {  \
                const sq_products p = DOT(&rows, column, column + at.step, depth); \
                SQ_FINISH_ROW(0);                                                  \
                SQ_FINISH_ROW(1);                                                  \
                SQ_FINISH_ROW(2);                                                  \
                SQ_FINISH_ROW(3);                                                  \
            }                                                                      \
            column += 2 * at.step;                                                 \
            position += 2 * gap;                                                   \
        }                                                                          \
    } while (0)

static SQ_APART void multiply_pairs(const sq_row_block *block, const sq_positions *given)
{
    SQ_MULTIPLY_PAIRS(sq_dot_two);
}

static SQ_APART void multiply_pairs_by_28(const sq_row_block *block, const sq_positions *given)
{
    SQ_MULTIPLY_PAIRS(sq_dot_two_by_28);
}

/* All rows of a block. */
static void multiply_all(const sq_layer *layer, const sq_row_block *block, const sq_positions *at)
{
    const int32_t whole = (block->fits != 0) ? (block->count & ~(SQ_ROWS - 1)) : 0;
    if (whole > 0) {
        if (block->depth % 28 == 0) {
            multiply_pairs_by_28(block, at);
        } else {
            multiply_pairs(block, at);
        }
    }
    for (int32_t i = 0; i < at->count; i++) { /* what is left of the rows, and a last single position */
        const int32_t first = (i < (at->count & ~1)) ? whole : 0;
        if (first < block->count) {
            multiply(layer, block, first, at->column + i * at->step, at->y + i * at->gap);
        }
    }
}

/* A run of input positions and of places in the strip. */
typedef struct {
    int32_t channels;
    int32_t x_step;
    int32_t strip_step;
    int32_t zero;
    int32_t outside; /* what positions outside are in the strip */
} run;

/* Few channels: three at a time, or each alone. */
static SQ_APART void widen_few(const run *given, const int8_t *x, int32_t count, int16_t *strip)
{
    const run r = *given;
    if (r.channels == 3) {
        for (int32_t left = count; left > 0; left--) {
            strip[0] = (int16_t)(x[0] - r.zero);
            strip[1] = (int16_t)(x[1] - r.zero);
            strip[2] = (int16_t)(x[2] - r.zero);
            x += r.x_step;
            strip += r.strip_step;
        }
    } else {
        for (int32_t left = count; left > 0; left--) {
            for (int32_t i = 0; i < r.channels; i++) {
                strip[i] = (int16_t)(x[i] - r.zero);
            }
            x += r.x_step;
            strip += r.strip_step;
        }
    }
}

static SQ_APART void widen_many(const run *given, const int8_t *x, int32_t count, int16_t *strip)
{
    const run r = *given;
    for (int32_t left = count; left > 0; left--) {
        sq_widen(x, strip, r.channels, r.zero);
        x += r.x_step;
        strip += r.strip_step;
    }
}

static void fill_run(const run *r, int32_t count, int16_t *strip)
{
    for (int32_t left = count; left > 0; left--) {
        if (r->outside == 0) {
            sq_zero(strip, r->channels);
        } else {
            for (int32_t i = 0; i < r->channels; i++) {
                strip[i] = (int16_t)r->outside;
            }
        }
        strip += r->strip_step;
    }
}

/* Part of a row of the input: `count` positions, every `step`-th from `ix` on. */
static void widen_run(const sq_conv_params *params, const run *r, const int8_t *row, int32_t ix, int32_t step,
                      int32_t count, int16_t *strip)
{
    const int32_t width = params->window.width;
    int32_t first = 0;
    int32_t last = count;
    while ((first < count) && (ix + first * step < 0)) {
        first++;
    }
    while ((last > first) && (ix + (last - 1) * step >= width)) {
        last--;
    }
    fill_run(r, first, strip);
    fill_run(r, count - last, strip + last * r->strip_step);
    if (last > first) {
        const int8_t *const x = row + (ix + first * step) * params->window.channels;
        if (r->channels < 4) {
            widen_few(r, x, last - first, strip + first * r->strip_step);
        } else {
            widen_many(r, x, last - first, strip + first * r->strip_step);
        }
    }
}

/* The slabs of `count` output positions from `ox` on. */
static void fill_strip(const sq_conv_params *params, const int8_t *x, const run *all, int32_t top, int32_t ox,
                       int32_t count, int16_t *strip)
{
    const sq_window *const w = &params->window;
    const int32_t size = w->kernel_height * all->channels;
    const int32_t left = ox * w->stride_x - w->pad_left;
    const int dense = ((w->dilation_x == 1) && (w->stride_x <= w->kernel_width)) ? 1 : 0; /* no slab is left out */
    const int apart = ((params->pitch == w->kernel_width) && (dense == 0)) ? 1 : 0;
    const int32_t runs = (apart != 0) ? count : 1;
    const int32_t slabs = (apart != 0) ? w->kernel_width : ((count - 1) * params->pitch + w->kernel_width);
    const int32_t step = (apart != 0) ? w->dilation_x : 1;
    const run r = {all->channels, step * w->channels, size, all->zero, all->outside};
    for (int32_t ky = 0; ky < w->kernel_height; ky++) {
        const int32_t iy = top + ky * w->dilation_y;
        const int inside = ((iy >= 0) && (iy < w->height)) ? 1 : 0;
        for (int32_t i = 0; i < runs; i++) {
            int16_t *const to = strip + ky * all->channels + i * slabs * size;
            if (inside != 0) {
                widen_run(params, &r, x + iy * w->width * w->channels, left + i * w->stride_x, step, slabs, to);
            } else {
                fill_run(&r, slabs, to);
            }
        }
    }
}

static void convolve(const sq_conv_params *params, const sq_row_block *block, const int8_t *x, int32_t channels, int8_t *y,
                     int16_t *strip)
{
    const sq_window *const w = &params->window;
    const int32_t step = params->pitch * w->kernel_height * channels;
    const int32_t zero = params->layer.in_zero;
    const run r = {channels, 0, 0, (block->narrow != 0) ? 0 : zero, (block->narrow != 0) ? zero : 0};
    for (int32_t oy = 0; oy < w->out_height; oy++) {
        const int32_t top = oy * w->stride_y - w->pad_top;
        for (int32_t ox = 0; ox < w->out_width; ox += params->span) {
            const int32_t count = sq_min(params->span, w->out_width - ox);
            const sq_positions at = {strip, step, y, params->out_channels, count};
            fill_strip(params, x, &r, top, ox, count, strip);
            if (block->narrow != 0) {
                params->narrow->multiply(block, &at);
            } else {
                multiply_all(&params->layer, block, &at);
            }
            y += count * params->out_channels;
        }
    }
}

/* Rows with their scalings; says whether all of these fit, and whether they take the whole gain. */
static int32_t unpack(const sq_layer *layer, const sq_row_block *block, int16_t *rows, int32_t count, int32_t *whole)
{
    const int32_t gain_bits = sq_gain_bits(layer);
    int32_t fits = 1;
    *whole = 1;
    for (int32_t r = 0; r < block->count; r += SQ_ROWS) {
        int16_t *const scalings = rows + SQ_ROWS * block->depth;
        for (int32_t i = 0; i < SQ_ROWS; i++) { /* a row beyond the last is the last once more */
            const int32_t row = block->channel + sq_min(r + i, block->count - 1);
            int32_t rest = 1;
            const sq_scaling scaling = sq_scaling_of(layer, row, gain_bits, &rest);
            sq_put_scaling(scalings + i * SQ_SCALING, &scaling);
            sq_unpack_row(layer, layer->codes + row * layer->row_bytes, rows + 2 * i, count);
            for (int32_t k = 0; (rest > 1) && (k < count); k++) {
                int16_t *const code = rows + 2 * i + SQ_SPREAD(k);
                *code = (int16_t)(*code * rest);
            }
            fits = (scaling.shift < 0) ? 0 : fits;
            *whole = (rest > 1) ? 0 : *whole;
        }
        rows = scalings + SQ_ROWS * SQ_SCALING;
    }
    return fits;
}

void sq_conv(const sq_conv_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const int32_t channels = params->window.channels / params->groups;
    const int32_t outputs = params->out_channels / params->groups;
    const int32_t size = params->window.kernel_height * channels;
    const int32_t count = params->window.kernel_width * size;
    const int32_t strip = sq_depth(params->slabs * size) + 4;
    int16_t *const rows = scratch + strip;

    sq_zero(scratch, strip); /* the last column may reach beyond its slabs, where rows have zeros */
    for (int32_t group = 0; group < params->groups; group++) {
        for (int32_t first = 0; first < outputs; first += params->block) {
            const int32_t channel = group * outputs + first;
            sq_row_block block = {rows, sq_min(params->block, outputs - first), sq_depth(count), channel, 0, 0};
            int32_t whole;
            block.fits = unpack(&params->layer, &block, rows, count, &whole);
            if ((params->narrow != NULL) && (block.fits != 0) && (whole != 0)) {
                block.narrow = 1;
                for (int32_t r = 0; r < block.count; r += SQ_ROWS) {
                    params->narrow->pack(&params->layer, rows + r * (block.depth + SQ_SCALING), block.depth);
                }
            }
            convolve(params, &block, x + group * channels, channels, y + channel, scratch);
        }
    }
    sq_bound(&params->layer, y, params->window.out_height * params->window.out_width * params->out_channels);
}
