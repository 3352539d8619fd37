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

/* Packed codes to int16; `count` of them, the first at the lowest bit of the first byte. They go to SQ_SPREAD. */
typedef void (*sq_unpack)(const uint8_t *packed, int16_t *codes, int32_t count);

/* Two's complement of `bits` bits. */
void sq_unpack_2(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_3(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_4(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_5(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_6(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_7(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_8(const uint8_t *packed, int16_t *codes, int32_t count);

/* Mid-rise: 2 * u - (2^bits - 1) for the unsigned u of `bits` bits. */
void sq_unpack_odd_2(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_3(const uint8_t *packed, int16_t *codes, int32_t count);
void sq_unpack_odd_4(const uint8_t *packed, int16_t *codes, int32_t count);

/* What layers with weights share: clamp(out_zero + (sum * gain + bias[c]) * mantissa[c] * 2^-shift[c], low, high). */
typedef struct {
    const uint8_t *codes; /* packed rows, each begins at a byte */
    sq_unpack unpack;
    int32_t bits;
    int32_t row_bytes;
    int32_t gain;
    const int32_t *bias;
    const int32_t *mantissa;
    const uint8_t *shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low;
    int32_t high;
} sq_layer;

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

/* The same with a multiplier, offset and shift for each channel; dense [outer, channels, inner]. */
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

#endif
