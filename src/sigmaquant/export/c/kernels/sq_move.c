/* Codes to other places. */
#include "sq_fixed.h"

void sq_copy(const sq_copy_params *params, const int8_t *x, int8_t *y)
{
    const sq_copy_params *const p = params;
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *const from = x + i * p->x_stride[0] + j * p->x_stride[1] + k * p->x_stride[2];
                int8_t *const to = y + i * p->y_stride[0] + j * p->y_stride[1] + k * p->y_stride[2];
                if ((p->x_stride[3] == 1) && (p->y_stride[3] == 1)) {
                    (void)memcpy(to, from, (size_t)p->size[3]);
                } else {
                    for (int32_t l = 0; l < p->size[3]; l++) {
                        to[l * p->y_stride[3]] = from[l * p->x_stride[3]];
                    }
                }
            }
        }
    }
}

void sq_rescale(const sq_rescale_params *params, const int8_t *x, int8_t *y)
{
    const sq_rescale_params *const p = params;
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *const from = x + i * p->x_stride[0] + j * p->x_stride[1] + k * p->x_stride[2];
                int8_t *const to = y + i * p->y_stride[0] + j * p->y_stride[1] + k * p->y_stride[2];
                for (int32_t l = 0; l < p->size[3]; l++) {
                    const int32_t scaled = (from[l * p->x_stride[3]] * p->multiplier + p->offset) >> p->shift;
                    to[l * p->y_stride[3]] = sq_clamp(scaled + p->out_zero, p->low, p->high);
                }
            }
        }
    }
}

void sq_fill(const sq_fill_params *params, int8_t *y)
{
    (void)memset(y, params->value, (size_t)params->count);
}
