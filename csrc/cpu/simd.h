// Vectors of sixteen lanes for the code path that this file is compiled for: GLIMP_PATH names it, the flags allow it.
//
// A lane's result depends on that lane's inputs alone and is the same on every call, so kernels that keep one output
// in one lane give the same bits however many lanes are in use. Everything here is in a namespace of the code path:
// the linker must never take one path's function for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

// For functions whose values must stay in registers, where the compiler finds them too large to inline.
#define GLIMP_INLINE [[gnu::always_inline]] inline

namespace glimp::GLIMP_PATH {

// The first n lanes from memory, zeros in the others; and back.
inline F32 load_first(const float *p, int64_t n) {
    if (n >= kLanes) return load(p);
    float lanes[kLanes] = {};
    std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
    return load(lanes);
}
inline void store_first(float *p, F32 a, int64_t n) {
    if (n >= kLanes) return store(p, a);
    float lanes[kLanes];
    store(lanes, a);
    std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

// exp(x), to 2 ulp, for x <= 0; from -87.7 down, where the exponent's bits run out, it's 0.
// Coefficients of Cephes' expf.
inline F32 exp_nonpositive(F32 x) {
    const F32 clamped = max(x, set(-88.0f));
    const I32 n = to_int(clamped * set(1.44269504f));
    const F32 whole = to_float(n);
    const F32 r = fma(whole, set(2.12194440e-4f), fma(whole, set(-0.693359375f), clamped));
    F32 p = set(1.9875691500e-4f);
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(p, r * r, r + set(1.0f));
    return p * as_float(shift_left<23>(n + set(int32_t{127})));
}

}  // namespace glimp::GLIMP_PATH
