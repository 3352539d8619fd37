/* Bilinear resizing. */
#include "sq_fixed.h"

#define WEIGHT_BITS 11
#define WEIGHT_MASK ((1 << WEIGHT_BITS) - 1)

void sq_resize(const sq_resize_params *params, const int8_t *x, int8_t *y)
{
    const sq_resize_params p = *params;
    const int32_t row_codes = p.width * p.channels;
    const int32_t offset = -p.in_zero * p.row_one * p.column_one;
    for (int32_t oy = 0; oy < p.out_height; oy++) {
        const int32_t top = p.rows[oy] >> WEIGHT_BITS;
        const int32_t lower = p.rows[oy] & WEIGHT_MASK;
        const int8_t *const row = x + top * row_codes;
        const int8_t *const next_row = x + sq_min(top + 1, p.height - 1) * row_codes;
        for (int32_t ox = 0; ox < p.out_width; ox++) {
            const int32_t left = p.columns[ox] >> WEIGHT_BITS;
            const int32_t right = p.columns[ox] & WEIGHT_MASK;
            const int32_t at = left * p.channels;
            const int32_t next = sq_min(left + 1, p.width - 1) * p.channels;
            const int32_t a = (p.row_one - lower) * (p.column_one - right);
            const int32_t b = (p.row_one - lower) * right;
            const int32_t c = lower * (p.column_one - right);
            const int32_t d = lower * right;
            for (int32_t i = 0; i < p.channels; i++) {
                const int32_t sum = row[at + i] * a + row[next + i] * b + next_row[at + i] * c + next_row[next + i] * d;
                const int32_t scaled = sq_scale(sum + offset, p.mantissa, p.shift);
                y[i] = sq_clamp(scaled + p.out_zero, p.low, p.high);
            }
            y += p.channels;
        }
    }
}
