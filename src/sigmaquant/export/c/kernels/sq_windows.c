/* Averages over windows of any sizes. */
#include "sq_fixed.h"

void sq_average_windows(const sq_average_windows_params *params, const int8_t *x, int8_t *y)
{
    const sq_average_windows_params p = *params;
    const int32_t row_codes = p.width * p.channels;
    int32_t place = 0;
    for (int32_t oz = 0; oz < p.out_depth; oz++) {
        for (int32_t oy = 0; oy < p.out_height; oy++) {
            for (int32_t ox = 0; ox < p.out_width; ox++) {
                const int32_t first = p.columns[2 * ox];
                const int32_t end = p.columns[2 * ox + 1];
                for (int32_t c = 0; c < p.channels; c++) {
                    int32_t sum = 0;
                    for (int32_t z = p.planes[2 * oz]; z < p.planes[2 * oz + 1]; z++) {
                        for (int32_t row = p.rows[2 * oy]; row < p.rows[2 * oy + 1]; row++) {
                            const int8_t *const from = x + (z * p.height + row) * row_codes + c;
                            for (int32_t column = first; column < end; column++) {
                                sum += from[column * p.channels] - p.in_zero;
                            }
                        }
                    }
                    const int32_t scaled = sq_scale(sum, p.mantissa[place], p.shift[place]);
                    y[c] = sq_clamp(scaled + p.out_zero, p.low, p.high);
                }
                y += p.channels;
                place += p.factor_step;
            }
        }
    }
}
