/* Codes of several plans, one bit plane after the other: those that a plan does not use are not touched. */
#include "sq.h"

/* The four bits of a nibble as the lowest bits of four bytes, the first in the lowest byte. */
static inline uint32_t spread(uint32_t nibble)
{
    return (nibble * 0x00204081U) & 0x01010101U;
}

void sq_unpack_planes(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count)
{
    const int32_t from = (int32_t)(packed - layer->codes);
    const int32_t top = ((int32_t)1 << layer->planes) - 1;
    for (int32_t first = 0; first < count; first += 8) {
        uint32_t levels[2] = {0U, 0U};
        const int32_t left = count - first;
        for (int32_t p = 0; p < layer->planes; p++) {
            const uint32_t byte = layer->plane[p][from + first / 8];
            levels[0] = (levels[0] << 1) | spread(byte & 15U);
            levels[1] = (levels[1] << 1) | spread(byte >> 4);
        }
        for (int32_t i = 0; i < ((left < 8) ? left : 8); i++) {
            const int32_t level = (int32_t)((levels[i / 4] >> (8 * (i % 4))) & 255U);
            const int32_t code = (layer->planes < 8) ? (2 * level - top) : (level - ((level < 128) ? 128 : 127));
            codes[SQ_SPREAD(first + i)] = (int16_t)code;
        }
    }
}
