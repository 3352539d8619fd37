/* What a convolution multiplies: rows of weights as they lie in scratch, and columns of activations. */
#ifndef SQ_ROWS_H
#define SQ_ROWS_H

#include "sq_fixed.h"

/* Unpacked rows: fours of them, each four followed by its scalings. */
struct sq_row_block {
    const int16_t *rows;
    int32_t count;
    int32_t depth;
    int32_t channel; /* output channel of the first row */
    int32_t fits;    /* whether all scalings do */
    int32_t narrow;  /* whether the rows are packed once more, for activations as they are (sq_narrow.c) */
};

/* Neighbouring positions. */
struct sq_positions {
    const int16_t *column;
    int32_t step; /* from column to column */
    int8_t *y;
    int32_t gap; /* from position to position of the output */
    int32_t count;
};

#endif
