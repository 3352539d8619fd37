/* Floats to codes and back, outside of the network. */
#include "sq_fixed.h"

#define FAR 1024.0F /* more steps than any grid has */

void sq_quantize(const sq_grid *grid, const float *values, int8_t *codes)
{
    for (int32_t i = 0; i < grid->count; i++) {
        const float steps = values[i] / grid->scale;
        int32_t code = 0;
        if (steps >= FAR) {
            code = (int32_t)FAR;
        } else if (steps <= -FAR) {
            code = -(int32_t)FAR;
        } else if (steps == steps) { /* not NaN */
            code = (int32_t)steps;   /* towards zero; what is left is exact */
            const float rest = steps - (float)code;
            const int32_t odd = code % 2;
            if ((rest > 0.5F) || ((rest == 0.5F) && (odd != 0))) { /* half to even */
                code++;
            } else if ((rest < -0.5F) || ((rest == -0.5F) && (odd != 0))) {
                code--;
            }
        }
        codes[i] = sq_clamp(code + grid->zero, grid->low, grid->high);
    }
}

void sq_dequantize(const sq_grid *grid, const int8_t *codes, float *values)
{
    for (int32_t i = 0; i < grid->count; i++) {
        values[i] = (float)(codes[i] - grid->zero) * grid->scale;
    }
}
