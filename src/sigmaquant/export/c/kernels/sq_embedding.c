/* What integers of the caller stand for: rows of a table, single codes. */
#include "sq_fixed.h"

void sq_embedding(const sq_embedding_params *params, const int32_t *x, int8_t *y, int16_t *scratch)
{
    const sq_layer *const l = &params->layer;
    for (int32_t i = 0; i < params->count; i++) {
        const int32_t row = sq_min(sq_max(x[i], 0), params->rows - 1);
        const uint8_t *const packed = l->codes + (size_t)row * (size_t)l->row_bytes;
        int8_t *const to = y + i * params->y_stride[0];
        for (int32_t begin = 0; begin < params->width; begin += params->piece) {
            const int32_t count = sq_min(params->piece, params->width - begin);
            l->unpack(l, packed + begin / 8 * l->bits, scratch, count);
            for (int32_t k = 0; k < count; k++) {
                const int32_t value = sq_scale(scratch[SQ_SPREAD(k)], l->mantissa[row], l->shift[row]);
                to[(begin + k) * params->y_stride[1]] = sq_clamp(value + l->out_zero, l->low, l->high);
            }
        }
    }
}

void sq_recode(const sq_recode_params *params, const int32_t *x, int8_t *y)
{
    for (int32_t i = 0; i < params->count; i++) {
        y[i] = params->table[sq_min(sq_max(x[i], 0), params->rows - 1)];
    }
}
