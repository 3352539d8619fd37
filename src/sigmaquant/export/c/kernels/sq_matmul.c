/* Matrix products of two activations. */
#include "sq_dot.h"

/* A row of the first matrix. */
static void widen_row(const sq_matmul_params *p, const int8_t *a, int16_t *wide)
{
    const int32_t step = p->a_stride[1];
    if (step == 1) {
        sq_widen(a, wide, p->depth, p->a_zero);
    } else {
        for (int32_t k = 0; k < p->depth; k++) {
            wide[k] = (int16_t)(a[k * step] - p->a_zero);
        }
    }
    sq_zero(wide + p->depth, sq_depth(p->depth) - p->depth);
}

/* A column of the second matrix, to its place among four. */
static void spread_column(const sq_matmul_params *p, const int8_t *b, int16_t *codes)
{
    const int32_t step = p->b_stride[0];
    for (int32_t k = 0; k < p->depth; k++) {
        codes[SQ_SPREAD(k)] = (int16_t)(b[k * step] - p->b_zero);
    }
    for (int32_t k = p->depth; k < sq_depth(p->depth); k++) {
        codes[SQ_SPREAD(k)] = 0;
    }
}

static void put(const sq_matmul_params *p, const sq_sums *sums, int32_t count, int8_t *y)
{
    for (int32_t i = 0; i < count; i++) {
        const int32_t scaled = sq_scale(sums->row[i], p->mantissa, p->shift);
        y[i * p->y_stride[1]] = sq_clamp(scaled + p->out_zero, p->low, p->high);
    }
}

/* All rows of the first matrix by the columns that lie in scratch; `y` is at the first of them. */
static void multiply_block(const sq_matmul_params *p, const int8_t *a, int32_t columns, int8_t *y, int16_t *scratch)
{
    const int32_t depth = sq_depth(p->depth);
    int16_t *const next_row = scratch + depth;
    for (int32_t m = 0; m < p->rows; m += 2) {
        const int16_t *at = next_row + depth;
        widen_row(p, a + m * p->a_stride[0], scratch);
        if (m + 1 < p->rows) {
            widen_row(p, a + (m + 1) * p->a_stride[0], next_row);
        }
        for (int32_t c = 0; c < columns; c += SQ_ROWS) {
            const int32_t count = sq_min(SQ_ROWS, columns - c);
            int8_t *const to = y + m * p->y_stride[0] + c * p->y_stride[1];
            if (m + 1 < p->rows) {
                const sq_products products = sq_dot_two(&at, scratch, next_row, depth);
                put(p, &products.first, count, to);
                put(p, &products.second, count, to + p->y_stride[0]);
            } else {
                const sq_sums none = {{0, 0, 0, 0}};
                const sq_sums sums = sq_dot(at, scratch, depth, none);
                put(p, &sums, count, to);
                at += depth * SQ_ROWS;
            }
        }
    }
}

void sq_matmul(const sq_matmul_params *params, const int8_t *a, const int8_t *b, int8_t *y, int16_t *scratch)
{
    const int32_t depth = sq_depth(params->depth);
    int16_t *const columns = scratch + 2 * depth;
    for (int32_t first = 0; first < params->columns; first += params->block) {
        const int32_t now = sq_min(params->block, params->columns - first);
        for (int32_t c = 0; c < sq_depth(now); c++) { /* beyond the last column is that one once more */
            const int32_t column = first + sq_min(c, now - 1);
            int16_t *const codes = columns + c / SQ_ROWS * SQ_ROWS * depth + 2 * (c % SQ_ROWS);
            spread_column(params, b + column * params->b_stride[1], codes);
        }
        multiply_block(params, a, now, y + first * params->y_stride[1], scratch);
    }
}
