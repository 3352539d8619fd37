/* Code by code along strides, where inputs are repeated or lie in other orders. */
#include "sq_fixed.h"

void sq_add_strided(const sq_add_strided_params *params, const int8_t *a, const int8_t *b, int8_t *y)
{
    const sq_add_strided_params p = *params;
    for (int32_t i = 0; i < p.size[0]; i++) {
        for (int32_t j = 0; j < p.size[1]; j++) {
            for (int32_t k = 0; k < p.size[2]; k++) {
                const int8_t *left = a + sq_place(p.a_stride, i, j, k);
                const int8_t *right = b + sq_place(p.b_stride, i, j, k);
                int8_t *to = y + sq_place(p.y_stride, i, j, k);
                for (int32_t l = p.size[3]; l > 0; l--) {
                    const int32_t sum = *left * p.a_multiplier + *right * p.b_multiplier + p.offset;
                    *to = sq_clamp((sum >> p.shift) + p.out_zero, p.low, p.high);
                    left += p.a_stride[3];
                    right += p.b_stride[3];
                    to += p.y_stride[3];
                }
            }
        }
    }
}

void sq_affine_strided(const sq_affine_strided_params *params, const int8_t *x, int8_t *y)
{
    const sq_affine_strided_params p = *params;
    for (int32_t i = 0; i < p.size[0]; i++) {
        for (int32_t j = 0; j < p.size[1]; j++) {
            for (int32_t k = 0; k < p.size[2]; k++) {
                const int8_t *from = x + sq_place(p.x_stride, i, j, k);
                int8_t *to = y + sq_place(p.y_stride, i, j, k);
                int32_t at = sq_place(p.table_stride, i, j, k);
                for (int32_t l = p.size[3]; l > 0; l--) {
                    const int32_t sum = *from * p.multiplier[at] + p.offset[at];
                    *to = sq_clamp((sum >> p.shift[at]) + p.out_zero, p.low, p.high);
                    at += p.table_stride[3];
                    from += p.x_stride[3];
                    to += p.y_stride[3];
                }
            }
        }
    }
}

static inline int32_t term(const sq_term *given, int32_t x)
{
    return (x * given->multiplier + given->offset) >> given->shift;
}

void sq_extremum(const sq_extremum_params *params, const int8_t *a, const int8_t *b, int8_t *y)
{
    const sq_extremum_params p = *params;
    for (int32_t i = 0; i < p.size[0]; i++) {
        for (int32_t j = 0; j < p.size[1]; j++) {
            for (int32_t k = 0; k < p.size[2]; k++) {
                const int8_t *left = a + sq_place(p.a_stride, i, j, k);
                const int8_t *right = b + sq_place(p.b_stride, i, j, k);
                int8_t *to = y + sq_place(p.y_stride, i, j, k);
                for (int32_t l = p.size[3]; l > 0; l--) {
                    const int32_t first = term(&p.a, *left);
                    const int32_t second = term(&p.b, *right);
                    const int32_t found = (p.largest != 0) ? sq_max(first, second) : sq_min(first, second);
                    *to = sq_clamp(found + p.out_zero, p.low, p.high);
                    left += p.a_stride[3];
                    right += p.b_stride[3];
                    to += p.y_stride[3];
                }
            }
        }
    }
}

void sq_select(const sq_select_params *params, const int8_t *condition, const int8_t *a, const int8_t *b, int8_t *y)
{
    const sq_select_params p = *params;
    for (int32_t i = 0; i < p.size[0]; i++) {
        for (int32_t j = 0; j < p.size[1]; j++) {
            for (int32_t k = 0; k < p.size[2]; k++) {
                const int8_t *which = condition + sq_place(p.condition_stride, i, j, k);
                const int8_t *left = a + sq_place(p.a_stride, i, j, k);
                const int8_t *right = b + sq_place(p.b_stride, i, j, k);
                int8_t *to = y + sq_place(p.y_stride, i, j, k);
                for (int32_t l = p.size[3]; l > 0; l--) {
                    const int32_t found = (*which != 0) ? term(&p.a, *left) : term(&p.b, *right);
                    *to = sq_clamp(found + p.out_zero, p.low, p.high);
                    which += p.condition_stride[3];
                    left += p.a_stride[3];
                    right += p.b_stride[3];
                    to += p.y_stride[3];
                }
            }
        }
    }
}
