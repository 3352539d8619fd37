/* Rows of weights times columns of activations, both int16 and filled up to a multiple of four. */
#ifndef SQ_DOT_H
#define SQ_DOT_H

#include "sq_fixed.h"

typedef struct {
    int32_t upper;
    int32_t lower;
} sq_sums;

typedef struct {
    sq_sums first;
    sq_sums second;
} sq_products;

/* Two rows by one column. */
static inline sq_sums sq_dot(const int16_t *row, const int16_t *next_row, const int16_t *column, int32_t depth)
{
    sq_sums sums = {0, 0};
#if SQ_DSP
    for (const int16_t *const end = row + depth; row != end; row += 4) {
        const int32_t c = sq_word(column);
        const int32_t d = sq_word(column + 2);
        sums.upper = __smlad(sq_word(row), c, sums.upper);
        sums.lower = __smlad(sq_word(next_row), c, sums.lower);
        sums.upper = __smlad(sq_word(row + 2), d, sums.upper);
        sums.lower = __smlad(sq_word(next_row + 2), d, sums.lower);
        next_row += 4;
        column += 4;
    }
#else
    for (int32_t i = 0; i < depth; i++) {
        sums.upper += row[i] * column[i];
        sums.lower += next_row[i] * column[i];
    }
#endif
    return sums;
}

#if SQ_DSP
/* Two codes of each row and column. */
#define SQ_FOUR_PRODUCTS(AT)                          \
    do {                                              \
        const int32_t a = sq_word(row + (AT));        \
        const int32_t b = sq_word(next_row + (AT));   \
        const int32_t c = sq_word(column + (AT));     \
        const int32_t d = sq_word(next_column + (AT)); \
        s00 = __smlad(a, c, s00);                     \
        s01 = __smlad(a, d, s01);                     \
        s10 = __smlad(b, c, s10);                     \
        s11 = __smlad(b, d, s11);                     \
    } while (0)
#endif

/* Two rows by two columns: every load serves two products. */
static inline sq_products sq_dot_two(const int16_t *row, const int16_t *next_row, const int16_t *column,
                                     const int16_t *next_column, int32_t depth)
{
    int32_t s00 = 0;
    int32_t s01 = 0;
    int32_t s10 = 0;
    int32_t s11 = 0;
#if SQ_DSP
    const int16_t *const end = row + (depth & ~7);
    while (row != end) {
        SQ_FOUR_PRODUCTS(0);
        SQ_FOUR_PRODUCTS(2);
        SQ_FOUR_PRODUCTS(4);
        SQ_FOUR_PRODUCTS(6);
        row += 8;
        next_row += 8;
        column += 8;
        next_column += 8;
    }
    if ((depth & 4) != 0) {
        SQ_FOUR_PRODUCTS(0);
        SQ_FOUR_PRODUCTS(2);
    }
#else
    for (int32_t i = 0; i < depth; i++) {
        s00 += row[i] * column[i];
        s01 += row[i] * next_column[i];
        s10 += next_row[i] * column[i];
        s11 += next_row[i] * next_column[i];
    }
#endif
    const sq_products products = {{s00, s10}, {s01, s11}};
    return products;
}

#endif
