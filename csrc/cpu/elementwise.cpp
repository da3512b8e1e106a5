#include "elementwise.h"

#include "simd.h"

namespace glimp::GLIMP_PATH {

namespace {

void rms_norm(const float *x, const float *weight, float eps, int64_t d, float *out) {
    F32 squares[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};  // four, as an addition takes some cycles
    for (int64_t i = 0; i < d; i += kLanes) {
        const F32 v = load_first(x + i, d - i);
        F32 &total = squares[i / kLanes % 4];
        total = fma(v, v, total);
    }
    const float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(d);
    const F32 scale = set(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < d; i += kLanes)
        store_first(out + i, load_first(x + i, d - i) * scale * load_first(weight + i, d - i), d - i);
}

// x / (1 + exp(-x)), with the exponential of -|x| so that nothing overflows.
F32 silu(F32 x) {
    const F32 e = exp_nonpositive(set(0.0f) - abs(x));
    const F32 is_positive = min(max(x * set(0x1p100f), set(0.0f)), set(1.0f));  // where it's neither, e is 1
    return x * (max(e, is_positive) / (e + set(1.0f)));
}

void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += kLanes)
        store_first(out + i, silu(load_first(gate + i, n - i)) * load_first(up + i, n - i), n - i);
}

void rotate(float *head, const float *cos_sin, int64_t head_dim) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i += kLanes) {
        const F32 cos = load_first(cos_sin + i, half - i), sin = load_first(cos_sin + half + i, half - i);
        const F32 low = load_first(head + i, half - i), high = load_first(head + half + i, half - i);
        store_first(head + i, low * cos - high * sin, half - i);
        store_first(head + half + i, high * cos + low * sin, half - i);
    }
}

}  // namespace

extern const ElementwiseKernels kElementwise = {rms_norm, silu_mul, rotate};

}  // namespace glimp::GLIMP_PATH
