// Matrix products: weights [n, k], quantised in tiles or of a float type in rows, with activations [T, k].
#pragma once

#include <cstdint>

#include "../glimp.h"

namespace glimp {

// Activations as int8. Blocks of 32 share a scale: x = scale * q.
struct QuantizedRows {
    int8_t *q;       // [T, k]
    float *scale;    // [T, k / 32]
    float *moment;   // [T, k / 32]: scale * the block's sum of q
    int32_t *sum;    // [T, k / 16]: sums of q, for weights that are stored with an offset
    int64_t k;
};

// Where a product goes: out [T, n], rows `stride` apart.
struct Output {
    float *data;
    int64_t stride;
    bool accumulate;  // add to what is there
};

// Bytes that a thread needs to unpack the tiles that it works on.
constexpr int64_t unpacked_bytes(int64_t k) { return k / 32 * 2 * (8 * 64 + 2 * 64); }

struct LinearKernels {
    // one row [k] of x as row t of `rows`; k is a multiple of 32
    void (*quantize)(const float *x, const QuantizedRows &rows, int64_t t);
    // outputs of tiles first ... last - 1, 16 of them in each; scratch holds unpacked_bytes(k)
    void (*quantized)(const glimp_weight &weight, const QuantizedRows &x, int64_t num_tokens, int64_t first,
                      int64_t last, const Output &out, void *scratch);
    // the same of a float type, x [T, k]
    void (*floating)(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
                     const Output &out);
    // row `row` of the weight [k], in float32
    void (*dequantize)(const glimp_weight &weight, int64_t row, float *out);
};

}  // namespace glimp
