/* Pools over windows and means over whole dimensions. */
#include "sq_fixed.h"

void sq_max_pool(const sq_max_pool_params *params, const int8_t *x, int8_t *y)
{
    const sq_window *const w = &params->window;
    for (int32_t oy = 0; oy < w->out_height; oy++) {
        const int32_t top = oy * w->stride_y - w->pad_top;
        const sq_span rows = sq_inside(top, w->kernel_height, w->dilation_y, w->height);
        for (int32_t ox = 0; ox < w->out_width; ox++) {
            const int32_t left = ox * w->stride_x - w->pad_left;
            const sq_span columns = sq_inside(left, w->kernel_width, w->dilation_x, w->width);
            (void)memset(y, INT8_MIN, (size_t)w->channels);
            for (int32_t ky = rows.first; ky < rows.last; ky++) {
                for (int32_t kx = columns.first; kx < columns.last; kx++) {
                    const int32_t at = (top + ky * w->dilation_y) * w->width + left + kx * w->dilation_x;
                    const int8_t *const pixel = x + at * w->channels;
                    for (int32_t c = 0; c < w->channels; c++) {
                        y[c] = (pixel[c] > y[c]) ? pixel[c] : y[c];
                    }
                }
            }
            y += w->channels;
        }
    }
}

void sq_average_pool(const sq_average_pool_params *params, const int8_t *x, int8_t *y)
{
    const sq_window *const w = &params->window;
    for (int32_t oy = 0; oy < w->out_height; oy++) {
        const int32_t top = oy * w->stride_y - w->pad_top;
        const sq_span rows = sq_inside(top, w->kernel_height, 1, w->height);
        for (int32_t ox = 0; ox < w->out_width; ox++) {
            const int32_t left = ox * w->stride_x - w->pad_left;
            const sq_span columns = sq_inside(left, w->kernel_width, 1, w->width);
            for (int32_t c = 0; c < w->channels; c++) {
                int32_t sum = 0;
                for (int32_t ky = rows.first; ky < rows.last; ky++) {
                    const int8_t *const row = x + (top + ky) * w->width * w->channels;
                    for (int32_t kx = columns.first; kx < columns.last; kx++) {
                        sum += row[(left + kx) * w->channels + c] - params->in_zero;
                    }
                }
                const int32_t scaled = sq_scale(sum, params->mantissa, params->shift);
                y[c] = sq_clamp(scaled + params->out_zero, params->low, params->high);
            }
            y += w->channels;
        }
    }
}

static int32_t total(const sq_mean_params *params, const int8_t *x)
{
    const int32_t *const size = params->sum_size;
    const int32_t *const stride = params->sum_stride;
    int32_t sum = 0;
    for (int32_t a = 0; a < size[0]; a++) {
        for (int32_t b = 0; b < size[1]; b++) {
            for (int32_t c = 0; c < size[2]; c++) {
                const int8_t *const line = x + a * stride[0] + b * stride[1] + c * stride[2];
                for (int32_t d = 0; d < size[3]; d++) {
                    sum += line[d * stride[3]] - params->in_zero;
                }
            }
        }
    }
    return sum;
}

void sq_mean(const sq_mean_params *params, const int8_t *x, int8_t *y)
{
    const int32_t *const size = params->size;
    for (int32_t a = 0; a < size[0]; a++) {
        for (int32_t b = 0; b < size[1]; b++) {
            for (int32_t c = 0; c < size[2]; c++) {
                const int8_t *const from = x + a * params->x_stride[0] + b * params->x_stride[1] + c * params->x_stride[2];
                int8_t *const to = y + a * params->y_stride[0] + b * params->y_stride[1] + c * params->y_stride[2];
                for (int32_t d = 0; d < size[3]; d++) {
                    const int32_t sum = total(params, from + d * params->x_stride[3]);
                    const int32_t scaled = sq_scale(sum, params->mantissa, params->shift);
                    to[d * params->y_stride[3]] = sq_clamp(scaled + params->out_zero, params->low, params->high);
                }
            }
        }
    }
}
