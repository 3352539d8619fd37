/* Vectors of unit length. */
#include "sq_fixed.h"

static void bring_to_unit_length(const sq_unit_length_params *p, const int8_t *x, int8_t *y)
{
    const int32_t count = p->size[3];
    const int32_t x_step = p->x_stride[3];
    const int32_t y_step = p->y_stride[3];
    int64_t squares = 0;
    for (int32_t l = 0; l < count; l++) {
        const int32_t q = x[l * x_step] - p->in_zero;
        squares += q * q;
    }
    const int64_t root = sq_square_root(((squares > p->least) ? squares : p->least) * 65536);
    for (int32_t l = 0; l < count; l++) {
        const int64_t above = 2 * (x[l * x_step] - p->in_zero) * p->multiplier + root;
        const int64_t quotient = sq_floor_divide(above, 2 * root) + p->out_zero;
        y[l * y_step] = sq_clamp_wide(quotient, p->low, p->high);
    }
}

void sq_unit_length(const sq_unit_length_params *params, const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < params->size[0]; i++) {
        for (int32_t j = 0; j < params->size[1]; j++) {
            for (int32_t k = 0; k < params->size[2]; k++) {
                bring_to_unit_length(params, x + sq_place(params->x_stride, i, j, k),
                                     y + sq_place(params->y_stride, i, j, k));
            }
        }
    }
}
