/* Codes of -3..3, two rows in one: the lane a + 8192 * b of a row's code a and the next row's b. One multiplication by an
 * activation serves both rows, and one load of a lane too. The lower sum has 13 bits: activations are taken as they are,
 * without their zero-point, so that it cannot leave them in 10 products, |3 * 128 * 10| < 4096; then it is moved to a sum
 * of its own. The upper sum has the other 19 bits, for SQ_NARROW_DEPTH products: |3 * 128 * 680| < 2^18. The zero-point's
 * part, which is the same at all positions, is in the scaling's offset. */
#include "sq_dot.h"
#include "sq_rows.h"

#define LOW_BITS 13
#define STEP 10 /* products from move to move */

/* A lane's two products onto a sum: it wraps around where C's own signed addition may not. */
static inline int32_t product(const int16_t *lanes, const int16_t *column, int32_t sum)
{
#if SQ_DSP
    return __smlad(sq_word(lanes), sq_word(column), sum);
#else
    return sum + lanes[0] * column[0] + lanes[1] * column[1];
#endif
}

/* The signed lower bits. */
static inline int32_t lower(int32_t sum)
{
    return (int32_t)((uint32_t)sum << (32 - LOW_BITS)) >> (32 - LOW_BITS);
}

/* Two codes of four rows by two columns. */
#define SQ_NARROW_PRODUCTS(AT)                                                   \
    do {                                                                         \
        s0 = product(lanes + 4 * (AT), column + 2 * (AT), s0);                   \
        t0 = product(lanes + 4 * (AT), next_column + 2 * (AT), t0);              \
        s1 = product(lanes + 4 * (AT) + 2, column + 2 * (AT), s1);               \
        t1 = product(lanes + 4 * (AT) + 2, next_column + 2 * (AT), t1);          \
    } while (0)

#define SQ_NARROW_MOVE(SUM, TO)            \
    do {                                   \
        const int32_t part = lower((SUM)); \
        (TO) += part;                      \
        (SUM) -= part;                     \
    } while (0)

#define SQ_NARROW_STEP(AT)            \
    do {                              \
        SQ_NARROW_PRODUCTS((AT));     \
        SQ_NARROW_PRODUCTS((AT) + 1); \
        SQ_NARROW_PRODUCTS((AT) + 2); \
        SQ_NARROW_PRODUCTS((AT) + 3); \
        SQ_NARROW_PRODUCTS((AT) + 4); \
        SQ_NARROW_MOVE(s0, low_s0);   \
        SQ_NARROW_MOVE(s1, low_s1);   \
        SQ_NARROW_MOVE(t0, low_t0);   \
        SQ_NARROW_MOVE(t1, low_t1);   \
    } while (0)

/* Four rows by two columns. */
static inline sq_products dot(const int16_t *lanes, const int16_t *column, const int16_t *next_column, int32_t depth)
{
    int32_t s0 = 0;
    int32_t s1 = 0;
    int32_t t0 = 0;
    int32_t t1 = 0;
    int32_t low_s0 = 0;
    int32_t low_s1 = 0;
    int32_t low_t0 = 0;
    int32_t low_t1 = 0;
    int32_t left = depth;
    for (; left >= 2 * STEP; left -= 2 * STEP) {
        SQ_NARROW_STEP(0);
        SQ_NARROW_STEP(STEP / 2);
        lanes += 4 * STEP;
        column += 2 * STEP;
        next_column += 2 * STEP;
    }
    if (left >= STEP) {
        SQ_NARROW_STEP(0);
        lanes += 2 * STEP;
        column += STEP;
        next_column += STEP;
        left -= STEP;
    }
    for (; left > 0; left -= 2) {
        SQ_NARROW_PRODUCTS(0);
        lanes += 4;
        column += 2;
        next_column += 2;
    }
    SQ_NARROW_MOVE(s0, low_s0);
    SQ_NARROW_MOVE(s1, low_s1);
    SQ_NARROW_MOVE(t0, low_t0);
    SQ_NARROW_MOVE(t1, low_t1);
    const sq_products products = {{{low_s0, s0 >> LOW_BITS, low_s1, s1 >> LOW_BITS}},
                                  {{low_t0, t0 >> LOW_BITS, low_t1, t1 >> LOW_BITS}}};
    return products;
}

/* A pair of codes of two rows to two lanes, and onto the rows' sums. */
static inline void pack_pair(const int16_t *from, int16_t *to, int32_t sums[2])
{
#if SQ_DSP
    const int32_t first = sq_word(from);
    const int32_t second = sq_word(from + 2);
    sums[0] = __smlad(first, 0x00010001, sums[0]);
    sums[1] = __smlad(second, 0x00010001, sums[1]);
    sq_put_word(to, (uint32_t)__sadd16(first, (int16x2_t)(((uint32_t)second << LOW_BITS) & 0xE000E000U)));
#else
    const int32_t codes[4] = {from[0], from[1], from[2], from[3]};
    sums[0] += codes[0] + codes[1];
    sums[1] += codes[2] + codes[3];
    to[0] = (int16_t)(codes[0] + codes[2] * (1 << LOW_BITS));
    to[1] = (int16_t)(codes[1] + codes[3] * (1 << LOW_BITS));
#endif
}

/* Four unpacked rows (SQ_SPREAD), followed by their scalings, to lanes at the same place. */
static SQ_APART void sq_narrow_pack(const sq_layer *layer, int16_t *rows, int32_t depth)
{
    int32_t sums[SQ_ROWS] = {0, 0, 0, 0};
    int16_t *to = rows;
    const int16_t *from = rows;
    for (int32_t k = 0; k < depth; k += 2) { /* what is written has been read: half as much */
        pack_pair(from, to, sums);
        pack_pair(from + 4, to + 2, sums + 2);
        from += 2 * SQ_ROWS;
        to += SQ_ROWS;
    }
    int16_t *scalings = rows + SQ_ROWS * depth;
    for (int32_t i = 0; i < SQ_ROWS; i++) {
        sq_scaling scaling = sq_get_scaling(scalings);
        scaling.offset -= (int64_t)(layer->in_zero * sums[i]) * scaling.mantissa;
        sq_put_scaling(scalings, &scaling);
        scalings += SQ_SCALING;
    }
}

#define SQ_NARROW_FINISH(R)                                                    \
    do {                                                                       \
        const sq_scaling scaling = sq_get_scaling(rows + (R) * SQ_SCALING);    \
        y[gap + (R)] = sq_scaled(&scaling, p.second.row[(R)]);                 \
        y[(R)] = sq_scaled(&scaling, p.first.row[(R)]);                        \
    } while (0)

static SQ_APART void sq_narrow_multiply(const sq_row_block *block, const sq_positions *given)
{
    const sq_positions at = *given;
    const int32_t depth = block->depth;
    const int16_t *column = at.column;
    int8_t *position = at.y;
    for (int32_t left = at.count; left > 0; left -= 2) {
        const int32_t more = (left > 1) ? 1 : 0; /* a last single position is computed twice */
        const int32_t gap = more * at.gap;
        const int16_t *rows = block->rows;
        int8_t *y = position;
        for (int32_t now = block->count; now > 0; now -= SQ_ROWS) {
            const sq_products p = dot(rows, column, column + more * at.step, depth);
            rows += SQ_ROWS * depth;
            SQ_NARROW_FINISH(0);
            if (now >= SQ_ROWS) {
                SQ_NARROW_FINISH(1);
                SQ_NARROW_FINISH(2);
                SQ_NARROW_FINISH(3);
            } else {
                if (now > 1) {
                    SQ_NARROW_FINISH(1);
                }
                if (now > 2) {
                    SQ_NARROW_FINISH(2);
                }
            }
            y += SQ_ROWS;
            rows += SQ_ROWS * SQ_SCALING;
        }
        column += 2 * at.step;
        position += 2 * at.gap;
    }
}

const sq_narrow_kernels sq_narrow = {sq_narrow_pack, sq_narrow_multiply};
