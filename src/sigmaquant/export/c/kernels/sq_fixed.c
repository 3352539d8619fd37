#include "sq_fixed.h"

int32_t sq_scale_up(int64_t product, uint32_t shift)
{
    const int64_t rounded = (product + ((int64_t)1 << (shift - 1U))) >> shift;
    if (rounded > INT16_MAX) {
        return INT16_MAX;
    }
    return (rounded < INT16_MIN) ? INT16_MIN : (int32_t)rounded;
}
