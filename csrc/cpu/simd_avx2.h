// simd.h for one code path. AVX2 with FMA and F16C: a vector is two registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace glimp::GLIMP_PATH {

constexpr int kLanes = 16;

struct F32 {
    __m256 low, high;
};
struct I32 {
    __m256i low, high;
};
struct U8 {
    __m256i low, high;
};

inline __m256i load256(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store256(void *p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i *>(p), a); }
inline const char *second(const void *p) { return static_cast<const char *>(p) + 32; }
inline char *second(void *p) { return static_cast<char *>(p) + 32; }

inline F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline I32 set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F32 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline I32 load(const int32_t *p) { return {load256(p), load256(p + 8)}; }
inline U8 load_bytes(const void *p) { return {load256(p), load256(second(p))}; }
inline void store(float *p, F32 a) { _mm256_storeu_ps(p, a.low), _mm256_storeu_ps(p + 8, a.high); }
inline void store(int32_t *p, I32 a) { store256(p, a.low), store256(p + 8, a.high); }
inline void store_bytes(void *p, U8 a) { store256(p, a.low), store256(second(p), a.high); }
inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline F32 fma(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline F32 abs(F32 a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
inline I32 to_int(F32 a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
template <int kBits>
inline I32 shift_left(I32 a) { return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)}; }
inline F32 as_float(I32 a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
template <int kBits>
inline U8 shift_right(U8 a) { return {_mm256_srli_epi32(a.low, kBits), _mm256_srli_epi32(a.high, kBits)}; }
template <int kBits>
inline U8 shift_left(U8 a) { return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)}; }
inline U8 operator&(U8 a, U8 b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
inline U8 operator|(U8 a, U8 b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
inline U8 set_bytes(uint8_t x) {
    const __m256i v = _mm256_set1_epi8(static_cast<char>(x));
    return {v, v};
}
inline U8 set_quad(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline __m256 load_half8(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline F32 load_half(const uint16_t *p) { return {load_half8(p), load_half8(p + 8)}; }
inline __m256 load_bfloat8(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline F32 load_bfloat(const uint16_t *p) { return {load_bfloat8(p), load_bfloat8(p + 8)}; }
inline void store_half(uint16_t *p, F32 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
inline __m128i load64(const void *p) { return _mm_loadl_epi64(static_cast<const __m128i *>(p)); }
inline I32 load_unsigned(const uint8_t *p) {
    return {_mm256_cvtepu8_epi32(load64(p)), _mm256_cvtepu8_epi32(load64(p + 8))};
}
inline I32 load_signed(const int8_t *p) {
    return {_mm256_cvtepi8_epi32(load64(p)), _mm256_cvtepi8_epi32(load64(p + 8))};
}
inline void store_signed(int8_t *p, I32 a) {
    int32_t lanes[kLanes];
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}
template <int kBits>
inline I32 shift_right(I32 a) { return {_mm256_srli_epi32(a.low, kBits), _mm256_srli_epi32(a.high, kBits)}; }
inline I32 operator^(I32 a, I32 b) { return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)}; }
struct Product256 {
    __m256i low, high;
};
inline Product256 multiply256(__m256i a, __m256i factor) {
    const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
            _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
}
struct Product {
    I32 low, high;
};
inline Product multiply(I32 a, uint32_t b) {
    const __m256i factor = _mm256_set1_epi64x(b);
    const Product256 low = multiply256(a.low, factor), high = multiply256(a.high, factor);
    return {{low.low, high.low}, {low.high, high.high}};
}
inline uint32_t at_least(F32 a, F32 b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
    return static_cast<uint32_t>(low | high << 8);
}
inline F32 keep_first(F32 a, int n, float rest) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
    const __m256 high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane));
    return {_mm256_blendv_ps(_mm256_set1_ps(rest), a.low, low), _mm256_blendv_ps(_mm256_set1_ps(rest), a.high, high)};
}
inline float sum(F32 a) {
    const __m256 half = _mm256_add_ps(a.low, a.high);
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
// sum() of each of four, with the same additions.
inline void sum_four(F32 a, F32 b, F32 c, F32 d, float (&sums)[4]) {
    const auto halve = [](F32 x, F32 y) {
        const __m256 of_x = _mm256_add_ps(x.low, x.high), of_y = _mm256_add_ps(y.low, y.high);
        return _mm256_add_ps(_mm256_permute2f128_ps(of_x, of_y, 0x20), _mm256_permute2f128_ps(of_x, of_y, 0x31));
    };
    const __m256 ac = halve(a, c), bd = halve(b, d);
    __m256 each = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    each = _mm256_add_ps(each, _mm256_movehdup_ps(each));
    const __m256 ordered = _mm256_permutevar8x32_ps(each, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0));
    _mm_storeu_ps(sums, _mm256_castps256_ps128(ordered));
}
inline float largest(F32 a) {
    const __m256 half = _mm256_max_ps(a.low, a.high);
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline int32_t sum(I32 a) {
    int32_t lanes[kLanes], total = 0;
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) total += lanes[i];
    return total;
}

constexpr int kParts = 2;
using F32Part = __m256;
using I32Part = __m256i;
using U8Part = __m256i;
template <int kPart, class V>
inline auto part(V a) {
    if constexpr (kPart == 0) {
        return a.low;
    } else {
        return a.high;
    }
}
inline F32 join(const F32Part (&parts)[kParts]) { return {parts[0], parts[1]}; }
inline I32Part add(I32Part a, I32Part b) { return _mm256_add_epi32(a, b); }
inline F32Part fma(F32Part a, F32Part b, F32Part c) { return _mm256_fmadd_ps(a, b, c); }
inline F32Part to_float(I32Part a) { return _mm256_cvtepi32_ps(a); }

template <int kShift>
inline U8Part digit_of(U8Part quants) {
    return _mm256_and_si256(_mm256_srli_epi32(quants, kShift), _mm256_set1_epi8(15));
}
template <int kBits>
inline I32Part shift_left16(I32Part a) { return _mm256_slli_epi16(a, kBits); }
inline I32Part add_products16(I32Part sum, U8Part digits, U8Part x) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(digits, x));
    asm("" : "+x"(sum));  // or GCC puts additions off, and what's to be added into memory
    return sum;
}
inline I32Part sum_pairs(I32Part a, int16_t factor) { return _mm256_madd_epi16(a, _mm256_set1_epi16(factor)); }

#include "simd_int16.h"

}  // namespace glimp::GLIMP_PATH
