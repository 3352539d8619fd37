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

static inline int32_t clamp_int16(int64_t value)
{
    const int64_t above = (value < INT16_MIN) ? INT16_MIN : value;
    return (int32_t)((above > INT16_MAX) ? INT16_MAX : above);
}

/* As sq_scale, without its bounds. */
static inline int64_t scaled(int32_t value, int32_t mantissa, uint32_t shift)
{
    return ((int64_t)value * mantissa + ((int64_t)1 << (shift - 1U))) >> shift;
}

static inline int64_t rounded(int64_t value, int32_t shift)
{
    return (shift > 0) ? (value + ((int64_t)1 << (shift - 1))) >> shift : value;
}

static inline int32_t gate(const sq_recurrent_params *p, int64_t sum)
{
    return clamp_int16(rounded(sum, p->fraction_bits - GATE_BITS));
}

/* Between the knots of a table, for a gate's magnitude. */
static inline int32_t interpolated(const uint16_t *knots, int32_t gate, int32_t bits)
{
    const int32_t magnitude = sq_min((gate < 0) ? -gate : gate, INT16_MAX);
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

/* Rows of a matrix times a column, onto the sums from `first` on. */
static void multiply(const sq_layer *layer, int32_t row, int32_t rows, int32_t depth, int32_t piece,
                     const int16_t *column, int16_t *unpacked, int16_t *sums, int32_t first)
{
    for (int32_t r = 0; r < rows; r += SQ_ROWS) {
        const int32_t count = sq_min(SQ_ROWS, rows - r);
        sq_sums found = {{0, 0, 0, 0}};
        for (int32_t from = 0; from < depth; from += piece) {
            const int32_t length = sq_min(piece, depth - from);
            for (int32_t i = 0; i < SQ_ROWS; i++) { /* beyond the last row is the last one once more */
                const int32_t at = row + sq_min(r + i, rows - 1);
                const uint8_t *const packed = layer->codes + at * layer->row_bytes + from * layer->bits / 8;
                sq_unpack_row(layer, packed, unpacked + 2 * i, length);
            }
            found = sq_dot(unpacked, column + from, sq_depth(length), found);
        }
        for (int32_t i = 0; i < count; i++) {
            const int32_t at = row + r + i;
            const int64_t sum = scaled(found.row[i], layer->mantissa[at], layer->shift[at]) + layer->bias[at];
            put_sum(sums, first + r + i, sum_at(sums, first + r + i) + (int32_t)sum);
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
    const int64_t kept = (int64_t)(f * state[unit]) * ((int64_t)1 << p->state_bits);
    const int32_t cell = clamp_int16(rounded(kept + i * g, UNIT_BITS + p->state_bits));
    state[unit] = (int16_t)cell;
    return o * tangent(p, clamp_int16((int64_t)cell * ((int64_t)1 << (p->state_bits - (UNIT_BITS - GATE_BITS)))));
}

static int32_t step_gru(const sq_recurrent_params *p, const int16_t *sums, int32_t unit, int16_t *state)
{
    const int32_t units = p->units;
    const int32_t r = sigmoid(p, gate(p, sum_at(sums, unit)));
    const int32_t z = sigmoid(p, gate(p, sum_at(sums, units + unit)));
    const int64_t reset = rounded((int64_t)r * sum_at(sums, 3 * units + unit), UNIT_BITS);
    const int32_t n = tangent(p, gate(p, sum_at(sums, 2 * units + unit) + reset));
    const int64_t kept = (int64_t)(z * state[unit]) * ((int64_t)1 << p->state_bits);
    const int32_t next = clamp_int16(rounded((int64_t)((UNIT - z) * n) + kept, UNIT_BITS + p->state_bits));
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
            const int64_t found = scaled(hidden[u] - p->given_zero, p->given_mantissa, p->given_shift);
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
    start(p, hidden, (p->kind == SQ_GRU) ? hidden : state, wide, carried);
    for (int32_t t = 0; t < p->steps; t++) {
        (void)memset(sums, 0, (size_t)(carried - sums) * sizeof *sums);
        sq_widen(x + t * p->in, column, p->in, p->input.in_zero);
        sq_zero(column + p->in, sq_depth(p->in) - p->in);
        multiply(&p->input, 0, blocks * units, p->in, p->piece, column, unpacked, sums, 0);
        multiply(&p->hidden, 0, shared * units, units, p->piece, wide, unpacked, sums, 0);
        if (shared < blocks) {
            multiply(&p->hidden, shared * units, units, units, p->piece, wide, unpacked, sums, blocks * units);
        }
        for (int32_t u = 0; u < units; u++) {
            const int64_t found = scaled(step(p, sums, u, carried), p->mantissa, p->shift);
            const int8_t code = sq_clamp_wide(found + p->hidden.out_zero, p->hidden.low, p->hidden.high);
            wide[u] = (int16_t)(code - p->hidden.out_zero);
            if (p->gives_cell == 0) {
                y[t * units + u] = code;
            }
        }
    }
    for (int32_t u = 0; (u < units) && (p->gives_cell != 0); u++) {
        const int64_t found = scaled(carried[u], p->cell_mantissa, p->cell_shift);
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
