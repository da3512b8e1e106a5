// Ops that treat one row, or one head, at a time.
#pragma once

#include <cstdint>

namespace glimp {

struct ElementwiseKernels {
    // out [d] = x / sqrt(mean(x^2) + eps) * weight; out may be x
    void (*rms_norm)(const float *x, const float *weight, float eps, int64_t d, float *out);
    // out [n] = silu(gate) * up
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *out);
    // one head [D], rotated in place by cos_sin [2, D / 2]
    void (*rotate)(float *head, const float *cos_sin, int64_t head_dim);
};

}  // namespace glimp
