/* Softmax in integers. */
#include "sq_fixed.h"

static inline int32_t admitted(const uint8_t *mask, int32_t at)
{
    return (mask == NULL) || (((mask[at >> 3] >> (at & 7)) & 1) != 0);
}

static void share(const sq_softmax_codes_params *p, const int8_t *x, int8_t *y, int32_t at, const int8_t *given,
                  int32_t given_step)
{
    const int32_t count = p->size[3];
    const int32_t x_step = p->x_stride[3];
    const int32_t y_step = p->y_stride[3];
    const int32_t step = p->table_stride[3];
    const int8_t nothing = sq_clamp(p->out_zero, p->low, p->high);
    int32_t top = INT8_MIN;
    for (int32_t l = 0; l < count; l++) {
        if (admitted(p->mask, at + l * step) && (given[l * given_step] != 0)) {
            top = sq_max(top, x[l * x_step]);
        }
    }
    int64_t total = 0;
    for (int32_t l = 0; l < count; l++) {
        if (admitted(p->mask, at + l * step) && (given[l * given_step] != 0)) {
            total += p->table[top - x[l * x_step]];
        }
    }
    for (int32_t l = 0; l < count; l++) {
        const int32_t in = admitted(p->mask, at + l * step) && (given[l * given_step] != 0);
        const int32_t part = in ? p->table[top - x[l * x_step]] : 0;
        int8_t code = nothing;
        if (part != 0) {
            const int64_t quotient = (2 * part * p->multiplier + total * 256) / (total * 512) + p->out_zero;
            code = sq_clamp_wide(quotient, p->low, p->high);
        }
        y[l * y_step] = code;
    }
}

void sq_softmax_codes(const sq_softmax_codes_params *params, const int8_t *x, int8_t *y)
{
    static const int8_t all = 1;
    for (int32_t i = 0; i < params->size[0]; i++) {
        for (int32_t j = 0; j < params->size[1]; j++) {
            for (int32_t k = 0; k < params->size[2]; k++) {
                share(params, x + sq_place(params->x_stride, i, j, k), y + sq_place(params->y_stride, i, j, k),
                      sq_place(params->table_stride, i, j, k), &all, 0);
            }
        }
    }
}

void sq_softmax_given(const sq_softmax_given_params *params, const int8_t *x, const int8_t *given, int8_t *y)
{
    const sq_softmax_codes_params *const p = &params->shares;
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                share(p, x + sq_place(p->x_stride, i, j, k), y + sq_place(p->y_stride, i, j, k),
                      sq_place(p->table_stride, i, j, k), given + sq_place(params->given_stride, i, j, k),
                      params->given_stride[3]);
            }
        }
    }
}
