/* PReLU with a slope for each channel. */
#include "sq_fixed.h"

void sq_slopes(const sq_slopes_params *params, const int8_t *x, int8_t *y)
{
    const sq_slopes_params p = *params;
    const int32_t half = (int32_t)1 << (p.shift - 1);
    for (int32_t outer = 0; outer < p.outer; outer++) {
        for (int32_t c = 0; c < p.channels; c++) {
            const int32_t slope = p.slopes[c];
            for (int32_t inner = 0; inner < p.inner; inner++) {
                const int32_t q = *x - p.in_zero;
                const int32_t scaled = (q * ((q > 0) ? p.multiplier : slope) + half) >> p.shift;
                *y = sq_clamp(scaled + p.out_zero, p.low, p.high);
                x++;
                y++;
            }
        }
    }
}
