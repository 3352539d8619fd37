/* Kernels for quantized networks: int8 activations, bit-packed weights, integer arithmetic only.
 *
 * Activations of windows (convolutions, pools) are channels-last: [height, width, channels]; a sequence has height 1.
 * Nothing here allocates, recurses, or uses the C library beyond memcpy and memset. Kernels never work in place:
 * an output overlaps no input and no scratch.
 *
 * SQ_CHECK overwrites every area of the arena before it is born and after it died, to test the arena's plan.
 * SQ_WATCH calls sq_watch, which the program defines, with every activation that is complete.
 */
#ifndef SQ_H
#define SQ_H

#include <stdint.h>
#include <string.h>

#ifdef SQ_CHECK
#define SQ_TRASH(area, bytes) ((void)memset((area), 0x5B, (size_t)(bytes)))
#else
#define SQ_TRASH(area, bytes) ((void)0)
#endif

#ifdef SQ_WATCH
void sq_watch(int32_t number, const int8_t *codes, int32_t count);
#define SQ_SEE(number, codes, count) (sq_watch((number), (codes), (count)))
#else
#define SQ_SEE(number, codes, count) ((void)0)
#endif

#define SQ_RANK 4

/* Unpacked rows lie interleaved in fours: a pair of codes of each, the next pair of each, and so on. This is where code
 * `i` of a row is, counted from the row's first code; row `r` of the four begins at 2 * r. */
#define SQ_ROWS 4
#define SQ_SPREAD(i) ((i) / 2 * (2 * SQ_ROWS) + (i) % 2)

typedef struct sq_layer sq_layer;

/* Packed codes to int16; `count` of them, the first at the lowest bit of the first byte. They go to SQ_SPREAD. */
typedef void (*sq_unpack)(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);

/* Two's complement of `bits` bits. */
void sq_unpack_2(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_3(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_4(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_5(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_6(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_7(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_8(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);

/* Mid-rise: 2 * u - (2^bits - 1) for the unsigned u of `bits` bits. */
void sq_unpack_odd_2(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_3(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_4(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_5(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_6(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_7(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);

/* Bit planes of codes that several plans share: the `planes` most significant ones, of which `packed` is the first. Up to
 * 7 planes as mid-rise; of 8 planes u is u - 128 below 128 and u - 127 from there on. */
void sq_unpack_planes(const sq_layer *layer, const uint8_t *packed, int16_t *codes, int32_t count);

/* What layers with weights share: clamp(out_zero + (sum * gain + bias[c]) * mantissa[c] * 2^-shift[c], low, high). */
struct sq_layer {
    const uint8_t *codes; /* packed rows, each begins at a byte; of planes those of the first one */
    sq_unpack unpack;
    int32_t bits; /* from a code to the next in a row: 1 in a plane */
    int32_t row_bytes;
    int32_t gain;
    const int32_t *bias;
    const int32_t *mantissa;
    const uint8_t *shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
    const uint8_t *const *plane; /* of planes, each like `codes`; others have none */
    int32_t planes;              /* how many of them are read */
};

/* Where a window of an input [height, width, channels] lies for each output position. */
typedef struct {
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_height;
    int32_t out_width;
    int32_t kernel_height;
    int32_t kernel_width;
    int32_t stride_y;
    int32_t stride_x;
    int32_t dilation_y;
    int32_t dilation_x;
    int32_t pad_top;
    int32_t pad_left;
} sq_window;

/* Inner loops for codes of -3..3 and rows of at most SQ_NARROW_DEPTH codes (sq_narrow.c): how rows are packed once more,
 * and how neighbouring positions are multiplied. */
#define SQ_NARROW_DEPTH 680
typedef struct sq_row_block sq_row_block;
typedef struct sq_positions sq_positions;
typedef struct {
    void (*pack)(const sq_layer *layer, int16_t *rows, int32_t depth);
    void (*multiply)(const sq_row_block *block, const sq_positions *given);
} sq_narrow_kernels;
extern const sq_narrow_kernels sq_narrow;

/* Rows: one for each output channel, [kernel_width, kernel_height, channels / groups].
 * Scratch: a strip of `slabs` columns [kernel_height, channels / groups], filled up to 4 codes and with 4 more, and
 * `block` rows, filled up to a multiple of 4, each filled up to 4 codes and with an sq_scaling (sq_fixed.h). */
typedef struct {
    sq_layer layer;
    sq_window window;
    int32_t groups;
    int32_t out_channels;
    int32_t span;  /* neighbouring output positions of a strip */
    int32_t pitch; /* slabs from one of them to the next: the stride, or kernel_width where they share no slab */
    int32_t slabs; /* (span - 1) * pitch + kernel_width */
    int32_t block; /* output channels that are unpacked at a time: a multiple of 4, or all of a group */
    const sq_narrow_kernels *narrow; /* of codes that it is for; others have none */
} sq_conv_params;
void sq_conv(const sq_conv_params *params, const int8_t *x, int8_t *y, int16_t *scratch);

/* One output channel for each input channel. Rows: one for each four channels, [kernel_height, kernel_width, 4]; the
 * last one is filled up with any codes. Scratch: one row at its places among four (SQ_SPREAD); where `span` is not 0,
 * 4 * 12 codes before it, and its own place is at least 2 * `slabs` * 8 (sq_strip.h). */
typedef struct {
    sq_layer layer;
    sq_window window;
    int32_t span;  /* neighbouring output positions of a strip of 3 x 3 taps without dilation; 0: no strips */
    int32_t slabs; /* (span - 1) * stride_x + 3 */
} sq_depthwise_params;
void sq_depthwise(const sq_depthwise_params *params, const int8_t *x, int8_t *y, int16_t *scratch);

/* One vector. Rows: one for each output, [in]. Scratch: `in` codes and 4 pieces of a row, each rounded up to 4. */
typedef struct {
    sq_layer layer;
    int32_t in;
    int32_t out;
    int32_t piece; /* codes of a row that are unpacked at a time: a multiple of 8, or all */
} sq_linear_params;
void sq_linear(const sq_linear_params *params, const int8_t *x, int8_t *y, int16_t *scratch);

/* Rows of a table by integers, which are brought into 0..rows-1: clamp(out_zero + code * mantissa[i] * 2^-shift[i],
 * low, high) for the integer i. Scratch: four times a piece. */
typedef struct {
    sq_layer layer;
    int32_t count;
    int32_t rows;
    int32_t width;
    int32_t piece; /* codes of a row that are unpacked at a time: a multiple of 8, or all */
    int32_t y_stride[2];
} sq_embedding_params;
void sq_embedding(const sq_embedding_params *params, const int32_t *x, int8_t *y, int16_t *scratch);

/* table[i] for each integer i, which is brought into 0..rows-1. */
typedef struct {
    int32_t count;
    int32_t rows;
    const int8_t *table;
} sq_recode_params;
void sq_recode(const sq_recode_params *params, const int32_t *x, int8_t *y);

/* The largest code of each window; what lies outside never wins. */
typedef struct {
    sq_window window;
} sq_max_pool_params;
void sq_max_pool(const sq_max_pool_params *params, const int8_t *x, int8_t *y);

/* Scaled sum of each window; what lies outside counts as zero. */
typedef struct {
    sq_window window;
    int32_t mantissa;
    uint8_t shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_average_pool_params;
void sq_average_pool(const sq_average_pool_params *params, const int8_t *x, int8_t *y);

/* Scaled sums of windows [first, end) that tables give for each output place along depth, height and width of
 * [depth, height, width, channels], with one factor, or one for each place. */
typedef struct {
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_depth;
    int32_t out_height;
    int32_t out_width;
    const int32_t *planes;
    const int32_t *rows;
    const int32_t *columns;
    const int32_t *mantissa;
    const uint8_t *shift;
    int32_t factor_step; /* from place to place: 0 or 1 */
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_average_windows_params;
void sq_average_windows(const sq_average_windows_params *params, const int8_t *x, int8_t *y);

/* Scaled sum over some dimensions; `size` are the others. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int32_t sum_size[SQ_RANK];
    int32_t sum_stride[SQ_RANK];
    int32_t mantissa;
    uint8_t shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_mean_params;
void sq_mean(const sq_mean_params *params, const int8_t *x, int8_t *y);

/* clamp(out_zero + ((a * a_multiplier + b * b_multiplier + offset) >> shift), low, high): zero-points of the inputs
 * and the rounding are in the offset. */
typedef struct {
    int32_t count;
    int32_t a_multiplier;
    int32_t b_multiplier;
    int32_t offset;
    uint8_t shift;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_add_params;
void sq_add(const sq_add_params *params, const int8_t *a, const int8_t *b, int8_t *y);

/* The same along strides; stride 0 broadcasts. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t a_stride[SQ_RANK];
    int32_t b_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int32_t a_multiplier;
    int32_t b_multiplier;
    int32_t offset;
    uint8_t shift;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_add_strided_params;
void sq_add_strided(const sq_add_strided_params *params, const int8_t *a, const int8_t *b, int8_t *y);

/* One term with a multiplier, offset and shift for each channel; dense [outer, channels, inner]. */
typedef struct {
    int32_t outer;
    int32_t channels;
    int32_t inner;
    const int32_t *multiplier;
    const int32_t *offset;
    const uint8_t *shift;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_affine_params;
void sq_affine(const sq_affine_params *params, const int8_t *x, int8_t *y);

/* The same along strides, also of the tables; stride 0 broadcasts. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t table_stride[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    const int32_t *multiplier;
    const int32_t *offset;
    const uint8_t *shift;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_affine_strided_params;
void sq_affine_strided(const sq_affine_strided_params *params, const int8_t *x, int8_t *y);

/* A value of one input on the output's grid: (x * multiplier + offset) >> shift; zero-point and rounding are in the
 * offset. */
typedef struct {
    int32_t multiplier;
    int32_t offset;
    uint8_t shift;
} sq_term;

/* clamp(out_zero + max(a, b), low, high), or the smaller one; stride 0 broadcasts. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t a_stride[SQ_RANK];
    int32_t b_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int32_t largest;
    sq_term a;
    sq_term b;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_extremum_params;
void sq_extremum(const sq_extremum_params *params, const int8_t *a, const int8_t *b, int8_t *y);

/* clamp(out_zero + (condition != 0 ? a : b), low, high); stride 0 broadcasts. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t condition_stride[SQ_RANK];
    int32_t a_stride[SQ_RANK];
    int32_t b_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    sq_term a;
    sq_term b;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_select_params;
void sq_select(const sq_select_params *params, const int8_t *condition, const int8_t *a, const int8_t *b, int8_t *y);

/* clamp(out_zero + (((x - in_zero) * m + 2^(shift-1)) >> shift), low, high), m being `multiplier` for x > in_zero, else
 * the channel's slope; dense [outer, channels, inner]. */
typedef struct {
    int32_t outer;
    int32_t channels;
    int32_t inner;
    int32_t multiplier;
    const int32_t *slopes;
    uint8_t shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_slopes_params;
void sq_slopes(const sq_slopes_params *params, const int8_t *x, int8_t *y);

/* Vectors along the last of the dimensions, brought to unit length: with q = x - in_zero and r = isqrt(max(sum q^2,
 * least) * 2^16), clamp(out_zero + floor((2 * q * multiplier + r) / (2 * r)), low, high). */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int64_t multiplier;
    int64_t least;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_unit_length_params;
void sq_unit_length(const sq_unit_length_params *params, const int8_t *x, int8_t *y);

/* y[m, n] = clamp(out_zero + sum_k (a[m, k] - a_zero) * (b[k, n] - b_zero) * mantissa * 2^-shift, low, high). Strides are
 * those of the two dimensions. Scratch: two rows of `a` and `block` columns of `b`, filled up to a multiple of 4, all
 * filled up to 4 codes. */
typedef struct {
    int32_t rows;
    int32_t depth;
    int32_t columns;
    int32_t a_stride[2];
    int32_t b_stride[2];
    int32_t y_stride[2];
    int32_t mantissa;
    uint8_t shift;
    int32_t a_zero;
    int32_t b_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
    int32_t block; /* columns that are in scratch at a time: a multiple of 4, or all */
} sq_matmul_params;
void sq_matmul(const sq_matmul_params *params, const int8_t *a, const int8_t *b, int8_t *y, int16_t *scratch);

/* Shares along the last of the dimensions: with e = table[max x - x], which is 2^20 * exp of a difference, and s their
 * sum, clamp(out_zero + floor((2 * e * multiplier + 2^8 * s) / (2^9 * s)), low, high). Where there is a mask, only
 * values whose bit is set take part; the others are zero. `table_stride` counts bits of the mask. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t table_stride[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    const int32_t *table;
    const uint8_t *mask; /* NULL: all take part */
    int64_t multiplier;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_softmax_codes_params;
void sq_softmax_codes(const sq_softmax_codes_params *params, const int8_t *x, int8_t *y);

/* The same, where of what the mask admits only values whose `given` is not zero take part. */
typedef struct {
    sq_softmax_codes_params shares;
    int32_t given_stride[SQ_RANK];
} sq_softmax_given_params;
void sq_softmax_given(const sq_softmax_given_params *params, const int8_t *x, const int8_t *given, int8_t *y);
/* A recurrent layer over [steps, in]. Gates have 12 binary places, their functions 15; the state that goes from step to
 * step is in units of 2^(state_bits - 15). The result is [steps, units] of hidden states, or [units], the last cell.
 * Scratch: 2 * units for each block of gates (of a GRU: 4 blocks), `units` of state, `units` and `in` codes and 4 pieces
 * of a row, these each rounded up to 4, and so many rows of the matrices, whole fours each, as are unpacked once for all
 * steps. */
#define SQ_LSTM 0
#define SQ_GRU 1
#define SQ_RNN_TANH 2
#define SQ_RNN_RELU 3
typedef struct {
    sq_layer input; /* sums of both have units of 2^-fraction_bits, 12 to 20, and so have their biases */
    sq_layer hidden;
    int32_t kind;
    int32_t steps;
    int32_t in;
    int32_t units;
    int32_t piece; /* codes of a row that are unpacked at a time: a multiple of 8, or all */
    int32_t kept_input; /* rows of the matrices that stay unpacked: whole fours, or all */
    int32_t kept_hidden;
    int32_t fraction_bits;
    int32_t state_bits;
    const uint16_t *sigmoid; /* 257 values from 0 to 8 */
    const uint16_t *tangent; /* 513 */
    const int8_t *start_hidden;
    const int16_t *start_state;
    int32_t given_cell; /* whether the one state that is given is the cell */
    int32_t given_zero;
    int32_t given_mantissa; /* of a given hidden state, to the grid of hidden states */
    uint8_t given_shift;
    int32_t state_zero;
    int32_t state_mantissa; /* of a given cell, or a GRU's hidden state, to the state's units */
    uint8_t state_shift;
    int32_t mantissa; /* of what a step computes, to the grid of hidden states */
    uint8_t shift;
    int32_t gives_cell;
    int32_t cell_mantissa;
    uint8_t cell_shift;
    int32_t cell_zero;
    int32_t cell_low;
    int32_t cell_high;
} sq_recurrent_params;
typedef sq_recurrent_params sq_recurrent_from_params;
typedef sq_recurrent_params sq_recurrent_from_both_params;
void sq_recurrent(const sq_recurrent_params *params, const int8_t *x, int8_t *y, int16_t *scratch);
void sq_recurrent_from(const sq_recurrent_params *params, const int8_t *x, const int8_t *given, int8_t *y,
                       int16_t *scratch);
void sq_recurrent_from_both(const sq_recurrent_params *params, const int8_t *x, const int8_t *hidden,
                            const int8_t *cell, int8_t *y, int16_t *scratch);

/* Values relative to the mean and deviation of the last two of the dimensions, of `count` values. With q = x - in_zero,
 * d = count * q - (centred ? sum q : 0), r = max(1, isqrt(sum d^2 / count * 2^(2 * root_bits) + epsilon)) and
 * t = floor((d * 2^(root_bits + fraction_bits + 1) + r) / (2 * r)),
 * clamp(out_zero + ((t * multiplier + offset) >> shift), low, high): the rounding is in the offset. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t table_stride[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    const int32_t *multiplier;
    const int32_t *offset;
    const uint8_t *shift;
    int32_t centred;
    int64_t epsilon;
    int32_t root_bits;
    int32_t fraction_bits;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_norm_params;
void sq_norm(const sq_norm_params *params, const int8_t *x, int8_t *y);

/* Linear interpolation of [height, width, channels]. A place in a table is lower * 2^11 + weight: the output lies
 * `weight` 2048ths of the way from input place `lower` to the next one. `one` is 2048, or 1 along an axis that stays
 * as it is. */
typedef struct {
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t out_height;
    int32_t out_width;
    const int32_t *rows;
    const int32_t *columns;
    int32_t row_one;
    int32_t column_one;
    int32_t mantissa;
    uint8_t shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_resize_params;
void sq_resize(const sq_resize_params *params, const int8_t *x, int8_t *y);

/* clamp(out_zero + (a - a_zero) * (b - b_zero) * mantissa * 2^-shift, low, high); stride 0 broadcasts. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t a_stride[SQ_RANK];
    int32_t b_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int32_t mantissa;
    uint8_t shift;
    int32_t a_zero;
    int32_t b_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_multiply_params;
void sq_multiply(const sq_multiply_params *params, const int8_t *a, const int8_t *b, int8_t *y);

/* table[code + 128] */
typedef struct {
    int32_t count;
    const int8_t *table;
} sq_lookup_params;
void sq_lookup(const sq_lookup_params *params, const int8_t *x, int8_t *y);

/* Codes to other places. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
} sq_copy_params;
void sq_copy(const sq_copy_params *params, const int8_t *x, int8_t *y);

/* The same, but index i of the first dimension is read at offsets[i]. */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    const int32_t *offsets;
} sq_take_params;
void sq_take(const sq_take_params *params, const int8_t *x, int8_t *y);

/* Codes to other places and another grid: clamp(out_zero + ((x * multiplier + offset) >> shift), low, high). */
typedef struct {
    int32_t size[SQ_RANK];
    int32_t x_stride[SQ_RANK];
    int32_t y_stride[SQ_RANK];
    int32_t multiplier;
    int32_t offset;
    uint8_t shift;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_rescale_params;
void sq_rescale(const sq_rescale_params *params, const int8_t *x, int8_t *y);

typedef struct {
    int32_t count;
    int32_t value;
} sq_fill_params;
void sq_fill(const sq_fill_params *params, int8_t *y);

/* Floats to codes and back, for a model's input and output; the network itself never uses them. NaN becomes zero. */
typedef struct {
    int32_t count;
    float scale;
    int32_t zero;
    int32_t low;
    int32_t high;
} sq_grid;
void sq_quantize(const sq_grid *grid, const float *values, int8_t *codes);
void sq_dequantize(const sq_grid *grid, const int8_t *codes, float *values);

/* Functions of floats behind the network's outputs, in place, [outer, size, inner]; they need the C library's <math.h>. */
typedef struct {
    int32_t outer;
    int32_t size;
    int32_t inner;
} sq_lines;
void sq_softmax(const sq_lines *lines, float *values);
void sq_log_softmax(const sq_lines *lines, float *values);
void sq_sigmoid(const sq_lines *lines, float *values);

#endif
