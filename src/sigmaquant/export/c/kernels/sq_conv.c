/* Convolution as a matrix product: rows of weights, unpacked once for a block of output channels, times columns of
 * activations. The columns of neighbouring positions overlap in a strip [x, kernel_height, channels] of int16, so that
 * each activation is widened once for all the taps of a kernel row; rows lie in the same order. */
#include "sq_dot.h"

/* Unpacked rows. */
typedef struct {
    const int16_t *rows;
    int32_t count;
    int32_t depth;
    int32_t channel; /* output channel of the first row */
} row_block;

/* One position of all rows of a block. */
static void multiply(const sq_layer *given, const row_block *block, const int16_t *column, int8_t *y)
{
    const sq_layer layer = *given; /* bytes of y might be the parameters' own, as far as the compiler knows */
    for (int32_t r = 0; r < block->count; r += 2) {
        const int32_t next = (r + 1 < block->count) ? 1 : 0; /* a last single row is its own neighbour */
        const int16_t *const row = block->rows + r * block->depth;
        const sq_sums sums = sq_dot(row, row + next * block->depth, column, block->depth);
        const sq_channel upper = sq_channel_of(&layer, block->channel + r);
        const sq_channel lower = sq_channel_of(&layer, block->channel + r + next);
        y[r] = sq_finish(&layer, &upper, sums.upper);
        y[r + next] = sq_finish(&layer, &lower, sums.lower);
    }
}

/* Two positions. */
static void multiply_two(const sq_layer *given, const row_block *block, const int16_t *column,
                         const int16_t *next_column, int8_t *y, int8_t *next_y)
{
    const sq_layer layer = *given;
    for (int32_t r = 0; r < block->count; r += 2) {
        const int32_t next = (r + 1 < block->count) ? 1 : 0;
        const int16_t *const row = block->rows + r * block->depth;
        const sq_products p = sq_dot_two(row, row + next * block->depth, column, next_column, block->depth);
        const sq_channel upper = sq_channel_of(&layer, block->channel + r);
        y[r] = sq_finish(&layer, &upper, p.first.upper);
        next_y[r] = sq_finish(&layer, &upper, p.second.upper);
        const sq_channel lower = sq_channel_of(&layer, block->channel + r + next);
        y[r + next] = sq_finish(&layer, &lower, p.first.lower);
        next_y[r + next] = sq_finish(&layer, &lower, p.second.lower);
    }
}

/* Column `ix` of the input below row `top`: [kernel_height, channels]. */
static void widen_slab(const sq_conv_params *params, const int8_t *x, int32_t channels, int32_t top, int32_t ix,
                       int16_t *slab)
{
    const sq_window *const w = &params->window;
    const int outside = (ix < 0) || (ix >= w->width);
    for (int32_t ky = 0; ky < w->kernel_height; ky++) {
        const int32_t iy = top + ky * w->dilation_y;
        if ((outside != 0) || (iy < 0) || (iy >= w->height)) {
            sq_zero(slab, channels);
        } else {
            sq_widen(x + (iy * w->width + ix) * w->channels, slab, channels, params->layer.in_zero);
        }
        slab += channels;
    }
}

/* The slabs of `count` output positions from `ox` on. */
static void fill_strip(const sq_conv_params *params, const int8_t *x, int32_t channels, int32_t top, int32_t ox,
                       int32_t count, int16_t *strip)
{
    const sq_window *const w = &params->window;
    const int32_t size = w->kernel_height * channels;
    const int32_t left = ox * w->stride_x - w->pad_left;
    if (params->pitch == w->kernel_width) { /* positions share no slab */
        for (int32_t i = 0; i < count; i++) {
            for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                widen_slab(params, x, channels, top, left + i * w->stride_x + kx * w->dilation_x, strip);
                strip += size;
            }
        }
    } else {
        for (int32_t i = 0; i < (count - 1) * params->pitch + w->kernel_width; i++) {
            widen_slab(params, x, channels, top, left + i, strip);
            strip += size;
        }
    }
}

static void convolve(const sq_conv_params *params, const row_block *block, const int8_t *x, int32_t channels, int8_t *y,
                     int16_t *strip)
{
    const sq_window *const w = &params->window;
    const int32_t step = params->pitch * w->kernel_height * channels;
    for (int32_t oy = 0; oy < w->out_height; oy++) {
        const int32_t top = oy * w->stride_y - w->pad_top;
        for (int32_t ox = 0; ox < w->out_width; ox += params->span) {
            const int32_t count = sq_min(params->span, w->out_width - ox);
            const int16_t *column = strip;
            int32_t left = count;
            fill_strip(params, x, channels, top, ox, count, strip);
            for (; left >= 2; left -= 2) {
                int8_t *const next_y = y + params->out_channels;
                multiply_two(&params->layer, block, column, column + step, y, next_y);
                column += 2 * step;
                y = next_y + params->out_channels;
            }
            if (left > 0) {
                multiply(&params->layer, block, column, y);
                y += params->out_channels;
            }
        }
    }
}

void sq_conv(const sq_conv_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const int32_t channels = params->window.channels / params->groups;
    const int32_t outputs = params->out_channels / params->groups;
    const int32_t size = params->window.kernel_height * channels;
    const int32_t count = params->window.kernel_width * size;
    const int32_t depth = sq_depth(count);
    const int32_t strip = sq_depth(params->slabs * size) + 4;
    int16_t *const rows = scratch + strip;

    sq_zero(scratch, strip); /* the last column may reach beyond its slabs, where rows have zeros */
    for (int32_t group = 0; group < params->groups; group++) {
        for (int32_t first = 0; first < outputs; first += params->block) {
            const int32_t channel = group * outputs + first;
            const row_block block = {rows, sq_min(params->block, outputs - first), depth, channel};
            for (int32_t r = 0; r < block.count; r++) {
                sq_unpack_row(&params->layer, channel + r, rows + r * depth, count);
            }
            convolve(params, &block, x + group * channels, channels, y + channel, scratch);
        }
    }
}
