/* Recurrent layers over a sequence: LSTM, GRU, RNN. */
#include "sq_dot.h"

#define GATE_BITS 12
#define UNIT_BITS 15
#define UNIT ((int32_t)1 << UNIT_BITS)

/* Sums are int32 in scratch of int16, which need not be aligned for them. */
static inline int32_t sum_at(const int16_t *sums, int32_t index)
{
    int32_t sum;
    (void)memcpy(&sum, sums + 2 * index, sizeof sum);
    return sum;
}

static inline void put_sum(int16_t *sums, int32_t index, int32_t sum)
{
    (void)memcpy(sums + 2 * index, &sum, sizeof sum);
}

static inline int32_t clamp_int16(int32_t value)
{
#if SQ_DSP
    return __ssat(value, 16);
#else
    return sq_min(sq_max(value, INT16_MIN), INT16_MAX);
#endif
}

static inline int32_t clamp_wide(int64_t value)
{
    const int64_t above = (value < INT16_MIN) ? INT16_MIN : value;
    return (int32_t)((above > INT16_MAX) ? INT16_MAX : above);
}

/* As sq_scale, without its bounds: what it gives fits into 32 bits. */
static inline int32_t scaled(int32_t value, int32_t mantissa, uint32_t shift)
{
    const int64_t product = (int64_t)value * mantissa;
    if (shift > 32U) { /* the low word takes no part in the rounding */
        return (((int32_t)(product >> 32) >> (shift - 33U)) + 1) >> 1;
    }
    const uint64_t sum = (uint64_t)product + ((uint32_t)1 << (shift - 1U));
    const uint32_t low = ((uint32_t)sum >> (shift - 1U)) >> 1;
    return (int32_t)(low | ((uint32_t)(sum >> 32) << (32U - shift)));
}

static inline int64_t rounded(int64_t value, int32_t shift)
{
    return (shift > 0) ? (value + ((int64_t)1 << (shift - 1))) >> shift : value;
}

static inline int32_t gate(const sq_recurrent_params *p, int32_t sum)
{
    const int32_t shift = p->fraction_bits - GATE_BITS;
    return clamp_int16((shift > 0) ? ((sum >> (shift - 1)) + 1) >> 1 : sum);
}

/* UNIT * state, both of 15 binary places, and another product of such, to the state's units. */
static inline int32_t mixed(const sq_recurrent_params *p, int32_t kept, int32_t added)
{
    const int32_t rest = (added + ((int32_t)1 << (UNIT_BITS - 1 + p->state_bits))) >> p->state_bits;
    return clamp_int16((int32_t)(((int64_t)kept + rest) >> UNIT_BITS));
}

/* Between the knots of a table, for a gate's magnitude. */
static inline int32_t interpolated(const uint16_t *knots, int32_t gate, int32_t bits)
{
    const int32_t magnitude = clamp_int16((gate < 0) ? -gate : gate);
    const int32_t first = knots[magnitude >> bits];
    const int32_t rest = magnitude & (((int32_t)1 << bits) - 1);
    const int32_t rise = knots[(magnitude >> bits) + 1] - first;
    return first + ((rise * rest + ((int32_t)1 << (bits - 1))) >> bits);
}

static inline int32_t sigmoid(const sq_recurrent_params *p, int32_t gate)
{
    const int32_t value = interpolated(p->sigmoid, gate, 7);
    return (gate < 0) ? UNIT - value : value;
}

static inline int32_t tangent(const sq_recurrent_params *p, int32_t gate)
{
    const int32_t value = interpolated(p->tangent, gate, 6);
    return (gate < 0) ? -value : value;
}

/* Rows of a matrix in fours, from one on. */
static void unpack_rows(const sq_layer *layer, int32_t row, int32_t rows, int32_t depth, int16_t *unpacked)
{
    for (int32_t r = 0; r < rows; r += SQ_ROWS) {
        for (int32_t i = 0; i < SQ_ROWS; i++) { /* beyond the last row is the last one once more */
            const uint8_t *const packed = layer->codes + (row + sq_min(r + i, rows - 1)) * layer->row_bytes;
            sq_unpack_row(layer, packed, unpacked + r * sq_depth(depth) + 2 * i, depth);
        }
    }
}

/* Four rows, unpacked piece by piece, times a column. */
static sq_sums unpacked_dot(const sq_layer *layer, int32_t row, int32_t rows, int32_t depth, int32_t piece,
                            const int16_t *column, int16_t *unpacked)
{
    sq_sums found = {{0, 0, 0, 0}};
    for (int32_t from = 0; from < depth; from += piece) {
        const int32_t length = sq_min(piece, depth - from);
        for (int32_t i = 0; i < SQ_ROWS; i++) {
            const int32_t at = row + sq_min(i, rows - 1);
            const uint8_t *const packed = layer->codes + at * layer->row_bytes + from * layer->bits / 8;
            sq_unpack_row(layer, packed, unpacked + 2 * i, length);
        }
        found = sq_dot(unpacked, column + from, sq_depth(length), found);
    }
    return found;
}

/* A matrix with the rows that have been unpacked. */
typedef struct {
    const sq_layer *layer;
    const int16_t *rows;
    int32_t count; /* of them, from the first of the matrix on: whole fours, or all */
    int32_t depth;
    int32_t piece;
} matrix;

/* Four rows, or the last ones, from one on, times a column. */
static inline sq_sums rows_dot(const matrix *m, int32_t row, int32_t rows, const int16_t *column, int16_t *unpacked)
{
    const sq_sums none = {{0, 0, 0, 0}};
    if (row + rows <= m->count) {
        return sq_dot_long(m->rows + row * sq_depth(m->depth), column, sq_depth(m->depth), none);
    }
    return unpacked_dot(m->layer, row, rows, m->depth, m->piece, column, unpacked);
}

/* A row's sum in units of the gates. `wide` is known where this is compiled: all shifts are above 32. */
static inline int32_t of_row(const sq_layer *layer, int32_t row, int32_t sum, int32_t wide)
{
    const int32_t value = sum * layer->gain;
    const int32_t mantissa = layer->mantissa[row];
    const uint32_t shift = layer->shift[row];
    if (wide != 0) {
        const int32_t high = (int32_t)(((int64_t)value * mantissa) >> 32);
        return (((high >> (shift - 33U)) + 1) >> 1) + layer->bias[row];
    }
    return scaled(value, mantissa, shift) + layer->bias[row];
}

static inline void put_rows(const sq_layer *input, const sq_layer *hidden, int32_t row, int32_t count,
                            const sq_products *found, int16_t *sums, int32_t wide)
{
    for (int32_t i = 0; i < count; i++) {
        const int32_t one = of_row(input, row + i, found->first.row[i], wide);
        put_sum(sums, row + i, one + of_row(hidden, row + i, found->second.row[i], wide));
    }
}

/* Both matrices times their columns: one sum for each row, of the rows from `joined` on two. */
static void multiply(const matrix *input, const matrix *hidden, int32_t rows, int32_t joined, const int16_t *column,
                     const int16_t *wide, int16_t *unpacked, int16_t *sums)
{
    const sq_layer of_input = *input->layer; /* copies: a store of sums ends what a compiler knows about memory */
    const sq_layer of_hidden = *hidden->layer;
    /* Sums are enlarged for that alone. */
    const int32_t is_wide = ((of_input.gain > 1) && (of_hidden.gain > 1)) ? 1 : 0;
    for (int32_t r = 0; r < rows; r += SQ_ROWS) {
        const int32_t count = sq_min(SQ_ROWS, rows - r);
        const sq_products found = {rows_dot(input, r, count, column, unpacked),
                                   rows_dot(hidden, r, count, wide, unpacked)};
        if (r + count <= joined) {
            if (is_wide != 0) {
                put_rows(&of_input, &of_hidden, r, count, &found, sums, 1);
            } else {
                put_rows(&of_input, &of_hidden, r, count, &found, sums, 0);
            }
            continue;
        }
        for (int32_t i = 0; i < count; i++) {
            const int32_t at = r + i;
            const int32_t one = of_row(&of_input, at, found.first.row[i], 0);
            const int32_t other = of_row(&of_hidden, at, found.second.row[i], 0);
            put_sum(sums, at, (at < joined) ? one + other : one);
            if (at >= joined) {
                put_sum(sums, at + rows - joined, other);
            }
        }
    }
}

static int32_t step_lstm(const sq_recurrent_params *p, const int16_t *sums, int32_t unit, int16_t *state)
{
    const int32_t units = p->units;
    const int32_t i = sigmoid(p, gate(p, sum_at(sums, unit)));
    const int32_t f = sigmoid(p, gate(p, sum_at(sums, units + unit)));
    const int32_t g = tangent(p, gate(p, sum_at(sums, 2 * units + unit)));
    const int32_t o = sigmoid(p, gate(p, sum_at(sums, 3 * units + unit)));
    const int32_t cell = mixed(p, f * state[unit], i * g);
    state[unit] = (int16_t)cell;
    return o * tangent(p, clamp_int16(cell * ((int32_t)1 << (p->state_bits - (UNIT_BITS - GATE_BITS)))));
}

static int32_t step_gru(const sq_recurrent_params *p, const int16_t *sums, int32_t unit, int16_t *state)
{
    const int32_t units = p->units;
    const int32_t r = sigmoid(p, gate(p, sum_at(sums, unit)));
    const int32_t z = sigmoid(p, gate(p, sum_at(sums, units + unit)));
    const int64_t reset = rounded((int64_t)r * sum_at(sums, 3 * units + unit), UNIT_BITS);
    const int64_t sum = rounded(sum_at(sums, 2 * units + unit) + reset, p->fraction_bits - GATE_BITS);
    const int32_t n = tangent(p, clamp_wide(sum));
    const int32_t next = mixed(p, z * state[unit], (UNIT - z) * n);
    state[unit] = (int16_t)next;
    return next;
}

static int32_t step(const sq_recurrent_params *p, const int16_t *sums, int32_t unit, int16_t *state)
{
    switch (p->kind) {
    case SQ_LSTM:
        return step_lstm(p, sums, unit, state);
    case SQ_GRU:
        return step_gru(p, sums, unit, state);
    case SQ_RNN_TANH:
        return tangent(p, gate(p, sum_at(sums, unit)));
    default:
        return sq_max(sum_at(sums, unit), 0);
    }
}

static void start(const sq_recurrent_params *p, const int8_t *hidden, const int8_t *state, int16_t *wide,
                  int16_t *carried)
{
    for (int32_t u = 0; u < p->units; u++) {
        int32_t code = p->start_hidden[u];
        if (hidden != NULL) {
            const int64_t found = (int64_t)scaled(hidden[u] - p->given_zero, p->given_mantissa, p->given_shift);
            code = sq_clamp_wide(found + p->hidden.out_zero, p->hidden.low, p->hidden.high);
        }
        wide[u] = (int16_t)(code - p->hidden.out_zero);
        carried[u] = p->start_state[u];
        if (state != NULL) {
            const int32_t from = state[u] - p->state_zero;
            carried[u] = (int16_t)clamp_int16(scaled(from, p->state_mantissa, p->state_shift));
        }
    }
    sq_zero(wide + p->units, sq_depth(p->units) - p->units);
}

static void run(const sq_recurrent_params *p, const int8_t *x, const int8_t *hidden, const int8_t *state, int8_t *y,
                int16_t *scratch)
{
    const int32_t units = p->units;
    const int32_t blocks = (p->kind == SQ_LSTM) ? 4 : (p->kind == SQ_GRU) ? 3 : 1;
    const int32_t shared = (p->kind == SQ_GRU) ? 2 : blocks; /* a GRU's last block is not summed with the input's */
    int16_t *const sums = scratch;
    int16_t *const carried = sums + 2 * units * ((p->kind == SQ_GRU) ? 4 : blocks);
    int16_t *const wide = carried + units;
    int16_t *const column = wide + sq_depth(units);
    int16_t *const unpacked = column + sq_depth(p->in);
    int16_t *const hidden_rows = unpacked + SQ_ROWS * sq_depth(p->piece);
    int16_t *const input_rows = hidden_rows + sq_depth(p->kept_hidden) * sq_depth(units);
    const matrix from_input = {&p->input, input_rows, p->kept_input, p->in, p->piece};
    const matrix from_hidden = {&p->hidden, hidden_rows, p->kept_hidden, units, p->piece};
    unpack_rows(&p->hidden, 0, p->kept_hidden, units, hidden_rows);
    unpack_rows(&p->input, 0, p->kept_input, p->in, input_rows);
    start(p, hidden, (p->kind == SQ_GRU) ? hidden : state, wide, carried);
    for (int32_t t = 0; t < p->steps; t++) {
        sq_widen(x + t * p->in, column, p->in, p->input.in_zero);
        sq_zero(column + p->in, sq_depth(p->in) - p->in);
        multiply(&from_input, &from_hidden, blocks * units, shared * units, column, wide, unpacked, sums);
        for (int32_t u = 0; u < units; u++) {
            const int32_t found = clamp_int16(scaled(step(p, sums, u, carried), p->mantissa, p->shift));
            const int8_t code = sq_clamp(found + p->hidden.out_zero, p->hidden.low, p->hidden.high);
            wide[u] = (int16_t)(code - p->hidden.out_zero);
            if (p->gives_cell == 0) {
                y[t * units + u] = code;
            }
        }
    }
    for (int32_t u = 0; (u < units) && (p->gives_cell != 0); u++) {
        const int64_t found = (int64_t)scaled(carried[u], p->cell_mantissa, p->cell_shift);
        y[u] = sq_clamp_wide(found + p->cell_zero, p->cell_low, p->cell_high);
    }
}

void sq_recurrent(const sq_recurrent_params *params, const int8_t *x, int8_t *y, int16_t *scratch)
{
    run(params, x, NULL, NULL, y, scratch);
}

void sq_recurrent_from(const sq_recurrent_params *params, const int8_t *x, const int8_t *given, int8_t *y,
                       int16_t *scratch)
{
    run(params, x, (params->given_cell == 0) ? given : NULL, (params->given_cell == 0) ? NULL : given, y, scratch);
}

void sq_recurrent_from_both(const sq_recurrent_params *params, const int8_t *x, const int8_t *hidden,
                            const int8_t *cell, int8_t *y, int16_t *scratch)
{
    run(params, x, hidden, cell, y, scratch);
}
