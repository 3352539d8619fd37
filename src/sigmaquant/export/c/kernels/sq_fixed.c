#include "sq_fixed.h"

int32_t sq_scale_up(int64_t product, uint32_t shift)
{
    const int64_t rounded = (product + ((int64_t)1 << (shift - 1U))) >> shift;
    if (rounded > INT16_MAX) {
        return INT16_MAX;
    }
    return (rounded < INT16_MIN) ? INT16_MIN : (int32_t)rounded;
}

/* One binary digit after the other. */
int64_t sq_square_root(int64_t value)
{
    int64_t rest = value;
    int64_t root = 0;
    int64_t digit = (int64_t)1 << 62;
    while (digit > value) {
        digit >>= 2;
    }
    for (; digit > 0; digit >>= 2) {
        if (rest >= root + digit) {
            rest -= root + digit;
            root = (root >> 1) + digit;
        } else {
            root >>= 1;
        }
    }
    return root;
}
