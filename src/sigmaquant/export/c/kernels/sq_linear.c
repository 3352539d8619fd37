/* A matrix times one vector: every weight is used once, so unpacking costs as much as multiplying. */
#include "sq_dot.h"

/* The same piece of up to four rows. */
static void unpack_piece(const sq_linear_params *params, int32_t first_row, int32_t from, int32_t count, int16_t *rows)
{
    const uint8_t *const packed = params->layer.codes + from * params->layer.bits / 8;
    const int32_t now = (first_row == 0) ? SQ_ROWS : sq_min(SQ_ROWS, params->out - first_row);
    for (int32_t r = 0; r < now; r++) { /* beyond the last row is what was there, or the last row once more */
        const int32_t row = sq_min(first_row + r, params->out - 1);
        sq_unpack_row(&params->layer, packed + row * params->layer.row_bytes, rows + 2 * r, count);
    }
}

void sq_linear(const sq_linear_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const sq_layer *const layer = &params->layer;
    const int32_t depth = sq_depth(params->in);
    int16_t *const rows = scratch + depth;

    sq_widen(x, scratch, params->in, layer->in_zero);
    sq_zero(scratch + params->in, depth - params->in);
    for (int32_t r = 0; r < params->out; r += SQ_ROWS) {
        sq_sums sums = {{0, 0, 0, 0}};
        for (int32_t from = 0; from < params->in; from += params->piece) {
            const int32_t count = sq_min(params->piece, params->in - from);
            unpack_piece(params, r, from, count, rows);
            sums = sq_dot(rows, scratch + from, sq_depth(count), sums);
        }
        for (int32_t i = 0; i < sq_min(SQ_ROWS, params->out - r); i++) {
            const sq_channel channel = sq_channel_of(layer, r + i);
            y[r + i] = sq_finish(layer, &channel, sums.row[i]);
        }
    }
}
