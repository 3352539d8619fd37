/* Functions of floats behind the network's outputs. */
#include <math.h>

#include "sq.h"

/* Values of a line relative to their largest one, and the sum of their exponentials. */
static float centre(const sq_lines *lines, float *values)
{
    float largest = values[0];
    for (int32_t i = 1; i < lines->size; i++) {
        largest = (values[i * lines->inner] > largest) ? values[i * lines->inner] : largest;
    }
    float sum = 0.0F;
    for (int32_t i = 0; i < lines->size; i++) {
        values[i * lines->inner] -= largest;
        sum += expf(values[i * lines->inner]);
    }
    return sum;
}

void sq_softmax(const sq_lines *lines, float *values)
{
    for (int32_t outer = 0; outer < lines->outer; outer++) {
        for (int32_t inner = 0; inner < lines->inner; inner++) {
            float *const line = values + outer * lines->size * lines->inner + inner;
            const float sum = centre(lines, line);
            for (int32_t i = 0; i < lines->size; i++) {
                line[i * lines->inner] = expf(line[i * lines->inner]) / sum;
            }
        }
    }
}

void sq_log_softmax(const sq_lines *lines, float *values)
{
    for (int32_t outer = 0; outer < lines->outer; outer++) {
        for (int32_t inner = 0; inner < lines->inner; inner++) {
            float *const line = values + outer * lines->size * lines->inner + inner;
            const float logarithm = logf(centre(lines, line));
            for (int32_t i = 0; i < lines->size; i++) {
                line[i * lines->inner] -= logarithm;
            }
        }
    }
}

void sq_sigmoid(const sq_lines *lines, float *values)
{
    for (int32_t i = 0; i < lines->outer * lines->size * lines->inner; i++) {
        values[i] = 1.0F / (1.0F + expf(-values[i]));
    }
}
