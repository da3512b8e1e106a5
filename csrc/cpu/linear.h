// Matrix products: weights [n, k], quantised in tiles or of a float type in rows, with activations [T, k].
#pragma once

#include <cstdint>

#include "../glimp.h"

namespace glimp {

constexpr int kGroup = 8;  // rows of activations that share a weight in registers

// Activations as int8. Blocks of 32 share a scale: x = scale * q.
//
// Rows are kept in groups of 8, the last one with what's left, R. Inside a group the rows lie side by side, so that
// what a product reads together is in one cache line: q [k / 4][R][4], scale and moment [k / 32][R],
// minus_sums [k / 32][3][R].
struct QuantizedRows {
    int8_t *q;
    float *scale;
    float *moment;  // scale * the block's sum of q
    int32_t *minus_sums;  // of the block's q; 32 times that of its first half, of its second: as simd_*.h needs them
    int64_t num_rows;
    int64_t k;

    int64_t rows_of_group(int64_t group) const {
        const int64_t left = num_rows - group * kGroup;
        return left < kGroup ? left : kGroup;
    }
};

// Where a product goes: out [T, n], rows `stride` apart.
struct Output {
    float *data;
    int64_t stride;
    bool accumulate;  // add to what is there
};

struct LinearKernels {
    // one row [k] of x as row t of `rows`; k is a multiple of 32
    void (*quantize)(const float *x, const QuantizedRows &rows, int64_t t);
    // outputs of tiles first ... last - 1, 16 of them in each
    void (*quantized)(const glimp_weight &weight, const QuantizedRows &x, int64_t first, int64_t last,
                      const Output &out);
    // row `row` of the weight [k], in float32
    void (*dequantize)(const glimp_weight &weight, int64_t row, float *out);
};

// The same of float types, x [T, k].
struct FloatLinearKernels {
    void (*multiply)(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
                     const Output &out);
    // x [count] rounded to bfloat16, ties to even, and the products of such rows with weights of that type; null where
    // the processor has none
    void (*round)(const float *x, int64_t count, uint16_t *to);
    void (*multiply_rounded)(const glimp_weight &weight, const uint16_t *x, int64_t num_tokens, int64_t first,
                             int64_t last, const Output &out);
    void (*row)(const glimp_weight &weight, int64_t row, float *out);
};

}  // namespace glimp
