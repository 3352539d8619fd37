/* Codes from places that a table gives. */
#include "sq_fixed.h"

void sq_take(const sq_take_params *params, const int8_t *x, int8_t *y)
{
    const sq_take_params *const p = params;
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *const from = x + p->offsets[i] + j * p->x_stride[1] + k * p->x_stride[2];
                int8_t *const to = y + sq_place(p->y_stride, i, j, k);
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
