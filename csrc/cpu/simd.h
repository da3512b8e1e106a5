// Vectors of sixteen lanes for the code path that this file is compiled for: GLIMP_PATH names it, the flags allow it.
//
// A lane's result depends on that lane's inputs alone and is the same on every call, so kernels that keep one output
// in one lane give the same bits however many lanes are in use. Everything here is in a namespace of the code path:
// the linker must never take one path's function for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace glimp::GLIMP_PATH {

constexpr int kLanes = 16;

// For functions whose values must stay in registers, where the compiler finds them too large to inline.
#define GLIMP_INLINE [[gnu::always_inline]] inline

#if defined(__AVX512F__)

struct F32 {  // 16 floats
    __m512 v;
};
struct I32 {  // 16 ints
    __m512i v;
};
struct U8 {  // 64 bytes: four for each lane
    __m512i v;
};

inline F32 set(float x) { return {_mm512_set1_ps(x)}; }
inline I32 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline F32 load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline I32 load(const int32_t *p) { return {_mm512_loadu_si512(p)}; }
inline U8 load_bytes(const void *p) { return {_mm512_loadu_si512(p)}; }
inline void store(float *p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void store(int32_t *p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline void store_bytes(void *p, U8 a) { _mm512_storeu_si512(p, a.v); }
inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 to_int(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }  // to nearest, ties to even
template <int kBits>
inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, kBits)}; }
inline F32 as_float(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
// Bytes: shifts move bits within groups of four bytes, so mask them with `&` afterwards.
template <int kBits>
inline U8 shift_right(U8 a) { return {_mm512_srli_epi32(a.v, kBits)}; }
template <int kBits>
inline U8 shift_left(U8 a) { return {_mm512_slli_epi32(a.v, kBits)}; }
inline U8 operator&(U8 a, U8 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline U8 operator|(U8 a, U8 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline U8 set_bytes(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
inline U8 set_quad(int32_t x) { return {_mm512_set1_epi32(x)}; }  // the same four bytes in every lane
inline F32 load_half(const uint16_t *p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
inline F32 load_bfloat(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline void store_half(uint16_t *p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline I32 load_unsigned(const uint8_t *p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))};
}
inline I32 load_signed(const int8_t *p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))};
}
inline void store_signed(int8_t *p, I32 a) {  // values must fit
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(a.v));
}
template <int kBits>
inline I32 shift_right(I32 a) { return {_mm512_srli_epi32(a.v, kBits)}; }
inline I32 operator^(I32 a, I32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
struct Product {  // of unsigned numbers, in two words
    I32 low, high;
};
inline Product multiply(I32 a, uint32_t b) {
    const __m512i factor = _mm512_set1_epi64(b);
    const __m512i even = _mm512_mul_epu32(a.v, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), factor);
    return {{_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32))},
            {_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)}};
}
// Bit i says whether a >= b in lane i; false where one is NaN.
inline uint32_t at_least(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
// The first n lanes of a, 0 <= n <= 16, and `rest` in the others.
inline F32 keep_first(F32 a, int n, float rest) {
    return {_mm512_mask_mov_ps(_mm512_set1_ps(rest), static_cast<__mmask16>((1u << n) - 1), a.v)};
}
inline float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(F32 a) { return _mm512_reduce_max_ps(a.v); }
inline int32_t sum(I32 a) { return _mm512_reduce_add_epi32(a.v); }

// acc + the dot product of each lane's four bytes: `weights` unsigned and at most kMax, `x` signed.
template <int kMax>
inline I32 dot4(I32 acc, U8 weights, U8 x) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpbusd_epi32(acc.v, weights.v, x.v)};
#else
    const __m512i ones = _mm512_set1_epi16(1);
    if constexpr (kMax <= 127) {  // a sum of two products then fits into 16 bits
        return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(_mm512_maddubs_epi16(weights.v, x.v), ones))};
    } else {
        const __m512i low = _mm512_and_si512(weights.v, _mm512_set1_epi8(15));
        const __m512i high = _mm512_and_si512(_mm512_srli_epi32(weights.v, 4), _mm512_set1_epi8(15));
        const __m512i lows = _mm512_madd_epi16(_mm512_maddubs_epi16(low, x.v), ones);
        const __m512i highs = _mm512_madd_epi16(_mm512_maddubs_epi16(high, x.v), _mm512_set1_epi16(16));
        return {_mm512_add_epi32(acc.v, _mm512_add_epi32(lows, highs))};
    }
#endif
}

#elif defined(__AVX2__)

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

template <int kMax>
inline __m256i dot4_half(__m256i acc, __m256i weights, __m256i x) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (kMax <= 127) {  // a sum of two products then fits into 16 bits
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), ones));
    } else {
        const __m256i low = _mm256_and_si256(weights, _mm256_set1_epi8(15));
        const __m256i high = _mm256_and_si256(_mm256_srli_epi32(weights, 4), _mm256_set1_epi8(15));
        const __m256i lows = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), ones);
        const __m256i highs = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16));
        return _mm256_add_epi32(acc, _mm256_add_epi32(lows, highs));
    }
}
template <int kMax>
inline I32 dot4(I32 acc, U8 weights, U8 x) {
    return {dot4_half<kMax>(acc.low, weights.low, x.low), dot4_half<kMax>(acc.high, weights.high, x.high)};
}

#else  // portable

struct F32 {
    float v[16];
};
struct I32 {
    int32_t v[16];
};
struct U8 {
    uint8_t v[64];
};

template <class V, class Function>
inline V each_lane(Function function) {
    V out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = function(i);
    return out;
}

inline F32 set(float x) { return each_lane<F32>([=](int) { return x; }); }
inline I32 set(int32_t x) { return each_lane<I32>([=](int) { return x; }); }
template <class V>
inline V load_as(const void *p) {
    V out;
    std::memcpy(&out, p, sizeof out);
    return out;
}
inline F32 load(const float *p) { return load_as<F32>(p); }
inline I32 load(const int32_t *p) { return load_as<I32>(p); }
inline U8 load_bytes(const void *p) { return load_as<U8>(p); }
inline void store(float *p, const F32 &a) { std::memcpy(p, &a, sizeof a); }
inline void store(int32_t *p, const I32 &a) { std::memcpy(p, &a, sizeof a); }
inline void store_bytes(void *p, const U8 &a) { std::memcpy(p, &a, sizeof a); }
inline F32 operator+(const F32 &a, const F32 &b) { return each_lane<F32>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F32 operator-(const F32 &a, const F32 &b) { return each_lane<F32>([&](int i) { return a.v[i] - b.v[i]; }); }
inline F32 operator*(const F32 &a, const F32 &b) { return each_lane<F32>([&](int i) { return a.v[i] * b.v[i]; }); }
inline F32 operator/(const F32 &a, const F32 &b) { return each_lane<F32>([&](int i) { return a.v[i] / b.v[i]; }); }
// rounded twice: without the instruction, once would take a library call a lane
inline F32 fma(const F32 &a, const F32 &b, const F32 &c) {
    return each_lane<F32>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32 max(const F32 &a, const F32 &b) {
    return each_lane<F32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 min(const F32 &a, const F32 &b) {
    return each_lane<F32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 abs(const F32 &a) { return each_lane<F32>([&](int i) { return __builtin_fabsf(a.v[i]); }); }
inline I32 operator+(const I32 &a, const I32 &b) { return each_lane<I32>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F32 to_float(const I32 &a) { return each_lane<F32>([&](int i) { return static_cast<float>(a.v[i]); }); }
inline I32 to_int(const F32 &a) {
    return each_lane<I32>([&](int i) { return static_cast<int32_t>(__builtin_nearbyintf(a.v[i])); });
}
template <int kBits>
inline I32 shift_left(const I32 &a) {
    return each_lane<I32>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); });
}
inline F32 as_float(const I32 &a) { return load_as<F32>(&a); }
template <class Function>
inline U8 each_byte(Function function) {
    U8 out;
    for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(function(i));
    return out;
}
template <int kBits>
inline U8 shift_right(const U8 &a) { return each_byte([&](int i) { return a.v[i] >> kBits; }); }
template <int kBits>
inline U8 shift_left(const U8 &a) { return each_byte([&](int i) { return a.v[i] << kBits; }); }
inline U8 operator&(const U8 &a, const U8 &b) { return each_byte([&](int i) { return a.v[i] & b.v[i]; }); }
inline U8 operator|(const U8 &a, const U8 &b) { return each_byte([&](int i) { return a.v[i] | b.v[i]; }); }
inline U8 set_bytes(uint8_t x) { return each_byte([=](int) { return x; }); }
inline U8 set_quad(int32_t x) {
    U8 out;
    for (int i = 0; i < kLanes; ++i) std::memcpy(out.v + 4 * i, &x, 4);
    return out;
}
inline float half_to_float(uint16_t h) {
    const uint32_t sign = (h & 0x8000u) << 16, magnitude = (h & 0x7fffu) << 13;
    // the exponent is rebased by a multiplication, which also normalises subnormal numbers
    float value;
    if (magnitude >= 0x7c00u << 13) {
        const uint32_t bits = sign | 0x7f800000u | magnitude;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    return sign ? -value : value;
}
inline uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // NaN
    if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
    if (bits < 0x38800000u) {  // subnormal: adding 0.5 leaves the value, rounded, in the low bits
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, 4);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1);  // to nearest, ties to even
    return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}
inline F32 load_half(const uint16_t *p) { return each_lane<F32>([=](int i) { return half_to_float(p[i]); }); }
inline F32 load_bfloat(const uint16_t *p) {
    return as_float(each_lane<I32>([=](int i) { return static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16); }));
}
inline void store_half(uint16_t *p, const F32 &a) {
    for (int i = 0; i < kLanes; ++i) p[i] = float_to_half(a.v[i]);
}
inline I32 load_unsigned(const uint8_t *p) { return each_lane<I32>([=](int i) { return p[i]; }); }
inline I32 load_signed(const int8_t *p) { return each_lane<I32>([=](int i) { return p[i]; }); }
inline void store_signed(int8_t *p, const I32 &a) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
template <int kBits>
inline I32 shift_right(const I32 &a) {
    return each_lane<I32>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> kBits); });
}
inline I32 operator^(const I32 &a, const I32 &b) { return each_lane<I32>([&](int i) { return a.v[i] ^ b.v[i]; }); }
struct Product {
    I32 low, high;
};
inline Product multiply(const I32 &a, uint32_t b) {
    Product out;
    for (int i = 0; i < kLanes; ++i) {
        const uint64_t product = uint64_t{b} * static_cast<uint32_t>(a.v[i]);
        out.low.v[i] = static_cast<int32_t>(product), out.high.v[i] = static_cast<int32_t>(product >> 32);
    }
    return out;
}
inline uint32_t at_least(const F32 &a, const F32 &b) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a.v[i] >= b.v[i]) << i;
    return bits;
}
inline F32 keep_first(const F32 &a, int n, float rest) {
    return each_lane<F32>([&](int i) { return i < n ? a.v[i] : rest; });
}
inline float sum(const F32 &a) {  // by halves, as the other paths do
    float lanes[kLanes];
    store(lanes, a);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}
inline float largest(const F32 &a) {
    float found = a.v[0];
    for (int i = 1; i < kLanes; ++i) found = a.v[i] > found ? a.v[i] : found;
    return found;
}
inline int32_t sum(const I32 &a) {
    int32_t total = 0;
    for (int i = 0; i < kLanes; ++i) total += a.v[i];
    return total;
}
template <int kMax>
inline I32 dot4(const I32 &acc, const U8 &weights, const U8 &x) {
    return each_lane<I32>([&](int i) {
        int32_t total = acc.v[i];
        for (int j = 4 * i; j < 4 * i + 4; ++j) total += weights.v[j] * static_cast<int8_t>(x.v[j]);
        return total;
    });
}

#endif

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

// exp(x), to 2 ulp, for x <= 0; from -87.7 down, where the exponent's bits run out, it's 0. Coefficients of Cephes' expf.
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
