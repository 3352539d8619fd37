/* A matrix times one vector: every weight is used once, so unpacking costs as much as multiplying. */
#include "sq_dot.h"

void sq_linear(const sq_linear_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    const sq_layer *const layer = &params->layer;
    const int32_t depth = sq_depth(params->in);
    int16_t *const rows = scratch + depth;

    sq_widen(x, scratch, params->in, layer->in_zero);
    sq_zero(scratch + params->in, depth - params->in);
    for (int32_t r = 0; r < params->out; r += 2) {
        const int32_t next = (r + 1 < params->out) ? 1 : 0; /* a last single row is its own neighbour */
        sq_unpack_row(layer, r, rows, params->in);
        sq_unpack_row(layer, r + next, rows + depth, params->in);
        const sq_sums sums = sq_dot(rows, rows + depth, scratch, depth);
        const sq_channel upper = sq_channel_of(layer, r);
        const sq_channel lower = sq_channel_of(layer, r + next);
        y[r] = sq_finish(layer, &upper, sums.upper);
        y[r + next] = sq_finish(layer, &lower, sums.lower);
    }
}
