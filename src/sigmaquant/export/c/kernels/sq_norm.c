/* Values relative to their own mean and deviation. */
#include "sq_fixed.h"

static void normalize(const sq_norm_params *p, const int8_t *x, int8_t *y, int32_t first)
{
    const int32_t count = p->size[2] * p->size[3];
    const int64_t unit = (int64_t)1 << (p->root_bits + p->fraction_bits + 1);
    int32_t sum = 0;
    uint32_t squares = 0;
    for (int32_t k = 0; k < p->size[2]; k++) {
        const int8_t *from = x + k * p->x_stride[2];
        for (int32_t l = p->size[3]; l > 0; l--) {
            const int32_t q = *from - p->in_zero;
            sum += q;
            squares += (uint32_t)(q * q);
            from += p->x_stride[3];
        }
    }
    sum = (p->centred != 0) ? sum : 0;
    const int64_t variance = (int64_t)squares * count - (int64_t)sum * sum;
    const int64_t found = sq_square_root(variance * ((int64_t)1 << (2 * p->root_bits)) + p->epsilon);
    const int64_t root = (found > 0) ? found : 1;
    for (int32_t k = 0; k < p->size[2]; k++) {
        const int8_t *from = x + k * p->x_stride[2];
        int8_t *to = y + k * p->y_stride[2];
        int32_t at = first + k * p->table_stride[2];
        for (int32_t l = p->size[3]; l > 0; l--) {
            const int64_t difference = (int64_t)count * (*from - p->in_zero) - sum;
            const int64_t normal = sq_floor_divide(difference * unit + root, 2 * root);
            const int64_t value = (normal * p->multiplier[at] + p->offset[at]) >> p->shift[at];
            *to = sq_clamp_wide(value + p->out_zero, p->low, p->high);
            at += p->table_stride[3];
            from += p->x_stride[3];
            to += p->y_stride[3];
        }
    }
}

void sq_norm(const sq_norm_params *params, const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < params->size[0]; i++) {
        for (int32_t j = 0; j < params->size[1]; j++) {
            normalize(params, x + sq_place(params->x_stride, i, j, 0), y + sq_place(params->y_stride, i, j, 0),
                      sq_place(params->table_stride, i, j, 0));
        }
    }
}
