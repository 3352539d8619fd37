/* Rows of weights times columns of activations, both int16 and filled up to a multiple of four. Rows come in fours,
 * interleaved by pairs of codes (SQ_SPREAD): one pointer walks along all of them, which leaves registers for eight
 * sums. Every load of a row serves two products, every load of a column four. */
#ifndef SQ_DOT_H
#define SQ_DOT_H

#include "sq_fixed.h"

/* Of four rows with one column. */
typedef struct {
    int32_t row[SQ_ROWS];
} sq_sums;

typedef struct {
    sq_sums first;
    sq_sums second;
} sq_products;

#if SQ_DSP
/* Two codes of four rows by one column. */
#define SQ_FOUR_PRODUCTS(AT)                               \
    do {                                                   \
        const int32_t c = sq_word(column + 2 * (AT));      \
        s0 = __smlad(sq_word(rows + 8 * (AT)), c, s0);     \
        s1 = __smlad(sq_word(rows + 8 * (AT) + 2), c, s1); \
        s2 = __smlad(sq_word(rows + 8 * (AT) + 4), c, s2); \
        s3 = __smlad(sq_word(rows + 8 * (AT) + 6), c, s3); \
    } while (0)

/* Two codes of four rows by two columns. */
#define SQ_EIGHT_PRODUCTS(AT)                              \
    do {                                                   \
        const int32_t c = sq_word(column + 2 * (AT));      \
        const int32_t d = sq_word(next_column + 2 * (AT)); \
        int32_t row = sq_word(rows + 8 * (AT));            \
        s0 = __smlad(row, c, s0);                          \
        t0 = __smlad(row, d, t0);                          \
        row = sq_word(rows + 8 * (AT) + 2);                \
        s1 = __smlad(row, c, s1);                          \
        t1 = __smlad(row, d, t1);                          \
        row = sq_word(rows + 8 * (AT) + 4);                \
        s2 = __smlad(row, c, s2);                          \
        t2 = __smlad(row, d, t2);                          \
        row = sq_word(rows + 8 * (AT) + 6);                \
        s3 = __smlad(row, c, s3);                          \
        t3 = __smlad(row, d, t3);                          \
    } while (0)
#else
#define SQ_FOUR_PRODUCTS(AT)                                        \
    do {                                                            \
        const int32_t c = column[2 * (AT)];                         \
        const int32_t next_c = column[2 * (AT) + 1];                \
        s0 += rows[8 * (AT)] * c + rows[8 * (AT) + 1] * next_c;     \
        s1 += rows[8 * (AT) + 2] * c + rows[8 * (AT) + 3] * next_c; \
        s2 += rows[8 * (AT) + 4] * c + rows[8 * (AT) + 5] * next_c; \
        s3 += rows[8 * (AT) + 6] * c + rows[8 * (AT) + 7] * next_c; \
    } while (0)

#define SQ_EIGHT_PRODUCTS(AT)                                       \
    do {                                                            \
        const int32_t d = next_column[2 * (AT)];                    \
        const int32_t next_d = next_column[2 * (AT) + 1];           \
        SQ_FOUR_PRODUCTS(AT);                                       \
        t0 += rows[8 * (AT)] * d + rows[8 * (AT) + 1] * next_d;     \
        t1 += rows[8 * (AT) + 2] * d + rows[8 * (AT) + 3] * next_d; \
        t2 += rows[8 * (AT) + 4] * d + rows[8 * (AT) + 5] * next_d; \
        t3 += rows[8 * (AT) + 6] * d + rows[8 * (AT) + 7] * next_d; \
    } while (0)
#endif

/* Four rows by one column, onto sums that there are. */
static inline sq_sums sq_dot(const int16_t *rows, const int16_t *column, int32_t depth, sq_sums sums)
{
    int32_t s0 = sums.row[0];
    int32_t s1 = sums.row[1];
    int32_t s2 = sums.row[2];
    int32_t s3 = sums.row[3];
    for (const int16_t *const end = column + depth; column != end; column += 4) {
        SQ_FOUR_PRODUCTS(0);
        SQ_FOUR_PRODUCTS(1);
        rows += 4 * SQ_ROWS;
    }
    const sq_sums result = {{s0, s1, s2, s3}};
    return result;
}

/* The same for rows that are used again and again: half as many rounds. */
static inline sq_sums sq_dot_long(const int16_t *rows, const int16_t *column, int32_t depth, sq_sums sums)
{
    int32_t s0 = sums.row[0];
    int32_t s1 = sums.row[1];
    int32_t s2 = sums.row[2];
    int32_t s3 = sums.row[3];
    for (const int16_t *const end = column + (depth & ~7); column != end; column += 8) {
        SQ_FOUR_PRODUCTS(0);
        SQ_FOUR_PRODUCTS(1);
        SQ_FOUR_PRODUCTS(2);
        SQ_FOUR_PRODUCTS(3);
        rows += 8 * SQ_ROWS;
    }
    const sq_sums result = {{s0, s1, s2, s3}};
    return ((depth & 4) != 0) ? sq_dot(rows, column, 4, result) : result;
}

/* Four rows by two columns; `at` moves on to what follows the rows. */
static inline sq_products sq_dot_two(const int16_t **at, const int16_t *column, const int16_t *next_column,
                                     int32_t depth)
{
    const int16_t *rows = *at;
    int32_t s0 = 0;
    int32_t s1 = 0;
    int32_t s2 = 0;
    int32_t s3 = 0;
    int32_t t0 = 0;
    int32_t t1 = 0;
    int32_t t2 = 0;
    int32_t t3 = 0;
    for (const int16_t *const end = column + (depth & ~7); column != end; column += 8) {
        SQ_EIGHT_PRODUCTS(0);
        SQ_EIGHT_PRODUCTS(1);
        SQ_EIGHT_PRODUCTS(2);
        SQ_EIGHT_PRODUCTS(3);
        rows += 8 * SQ_ROWS;
        next_column += 8;
    }
    if ((depth & 4) != 0) {
        SQ_EIGHT_PRODUCTS(0);
        SQ_EIGHT_PRODUCTS(1);
        rows += 4 * SQ_ROWS;
    }
    *at = rows;
    const sq_products products = {{{s0, s1, s2, s3}}, {{t0, t1, t2, t3}}};
    return products;
}

/* The same for a depth of a multiple of 28, which 3 x 3 taps of 3 channels have: no rest, fewer rounds. */
static inline sq_products sq_dot_two_by_28(const int16_t **at, const int16_t *column, const int16_t *next_column,
                                           int32_t depth)
{
    const int16_t *rows = *at;
    int32_t s0 = 0;
    int32_t s1 = 0;
    int32_t s2 = 0;
    int32_t s3 = 0;
    int32_t t0 = 0;
    int32_t t1 = 0;
    int32_t t2 = 0;
    int32_t t3 = 0;
    const int16_t *const end = column + depth;
    do {
        SQ_EIGHT_PRODUCTS(0);
        SQ_EIGHT_PRODUCTS(1);
        SQ_EIGHT_PRODUCTS(2);
        SQ_EIGHT_PRODUCTS(3);
        SQ_EIGHT_PRODUCTS(4);
        SQ_EIGHT_PRODUCTS(5);
        SQ_EIGHT_PRODUCTS(6);
        rows += 14 * SQ_ROWS;
        column += 14;
        next_column += 14;
    } while (column != end);
    *at = rows;
    const sq_products products = {{{s0, s1, s2, s3}}, {{t0, t1, t2, t3}}};
    return products;
}

#endif
