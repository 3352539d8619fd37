/* Code by code: sums, channel maps, products, tables. */
#include "sq_fixed.h"

void sq_add(const sq_add_params *params, const int8_t *a, const int8_t *b, int8_t *y)
{
    const sq_add_params p = *params;
    for (int32_t i = 0; i < p.count; i++) {
        const int32_t sum = a[i] * p.a_multiplier + b[i] * p.b_multiplier + p.offset;
        y[i] = sq_clamp((sum >> p.shift) + p.out_zero, p.low, p.high);
    }
}

void sq_affine(const sq_affine_params *params, const int8_t *x, int8_t *y)
{
    const sq_affine_params p = *params;
    for (int32_t outer = 0; outer < p.outer; outer++) {
        for (int32_t c = 0; c < p.channels; c++) {
            for (int32_t inner = 0; inner < p.inner; inner++) {
                const int32_t sum = *x * p.multiplier[c] + p.offset[c];
                *y = sq_clamp((sum >> p.shift[c]) + p.out_zero, p.low, p.high);
                x++;
                y++;
            }
        }
    }
}

void sq_multiply(const sq_multiply_params *params, const int8_t *a, const int8_t *b, int8_t *y)
{
    const sq_multiply_params *const p = params;
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *const left = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
                const int8_t *const right = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
                int8_t *const to = y + i * p->y_stride[0] + j * p->y_stride[1] + k * p->y_stride[2];
                for (int32_t l = 0; l < p->size[3]; l++) {
                    const int32_t product =
                        (left[l * p->a_stride[3]] - p->a_zero) * (right[l * p->b_stride[3]] - p->b_zero);
                    const int32_t scaled = sq_scale(product, p->mantissa, p->shift);
                    to[l * p->y_stride[3]] = sq_clamp(scaled + p->out_zero, p->low, p->high);
                }
            }
        }
    }
}

void sq_lookup(const sq_lookup_params *params, const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < params->count; i++) {
        y[i] = params->table[x[i] + 128];
    }
}
