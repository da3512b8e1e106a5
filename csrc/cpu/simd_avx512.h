// simd.h for one code path. AVX-512, with VNNI where the flags have it: a vector is one register.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace glimp::GLIMP_PATH {

constexpr int kLanes = 16;

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
// sum() of each of four, with the same additions.
inline void sum_four(F32 a, F32 b, F32 c, F32 d, float (&sums)[4]) {
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
    __m512 each = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    each = _mm512_add_ps(each, _mm512_permute_ps(each, 0x4e));
    each = _mm512_add_ps(each, _mm512_permute_ps(each, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, each)));
}
inline float largest(F32 a) { return _mm512_reduce_max_ps(a.v); }
inline int32_t sum(I32 a) { return _mm512_reduce_add_epi32(a.v); }

#if defined(__AVX512BF16__)
// 32 numbers of bfloat16: two for each lane.
struct BF16 {
    __m512bh v;
};
inline BF16 as_bfloats(__m512i bits) {
    BF16 out;
    std::memcpy(&out.v, &bits, sizeof bits);
    return out;
}
inline BF16 load_bfloats(const uint16_t *p) { return as_bfloats(_mm512_loadu_si512(p)); }
// The first n of them, 0 <= n <= 32, and zeros.
inline BF16 load_first_bfloats(const uint16_t *p, int64_t n) {
    return as_bfloats(_mm512_maskz_loadu_epi16(n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1, p));
}
// c + the products of a lane's two numbers; numbers too small to be normal are zero.
inline F32 dot(BF16 a, BF16 b, F32 c) { return {_mm512_dpbf16_ps(c.v, a.v, b.v)}; }
inline void store_bfloats(uint16_t *p, F32 a) {
    const __m256bh rounded = _mm512_cvtneps_pbh(a.v);
    std::memcpy(p, &rounded, sizeof rounded);
}
#endif

// The parts of a vector that are registers of their own, for sums that must stay in them.
constexpr int kParts = 1;
using F32Part = F32;
using I32Part = I32;
using U8Part = U8;
template <int kPart, class V>
inline V part(V a) { return a; }
inline I32 add(I32 a, I32 b) { return a + b; }
inline F32 join(const F32Part (&parts)[kParts]) { return parts[0]; }

// Products<kBits, kOffset>: for each lane the sum of (quant - kOffset) * x over a block or half of it, x int8 of
// -127 ... 127. Quants are taken digit by digit; a sum begins with what stands for the x's own sum, times -kOffset.
#if defined(__AVX512VNNI__)
// What stands for minus the sum of a block's q, and for 32 times that of its first and second half.
inline void minus_sums_of(const int8_t *q, int32_t (&sums)[3]) {
    const int32_t first = sum(load_signed(q)), second = sum(load_signed(q + kLanes));
    sums[0] = -(first + second), sums[1] = -32 * first, sums[2] = -32 * second;
}

template <int kBits, int kOffset>
struct Products {
    static constexpr int kDigits = 1;
    using Sum = I32;

    template <int kDigit>
    static U8 digit(U8 quants) { return quants; }
    template <int kDigit>
    static Sum begin(int32_t minus_sums) {
        if constexpr (kOffset == 0) return set(int32_t{0});
        return kBits == 6 ? set(minus_sums) : shift_left<kBits - 1>(set(minus_sums));
    }
    static Sum add(Sum sum, U8 digits, U8 x) { return {_mm512_dpbusd_epi32(sum.v, digits.v, x.v)}; }
    template <int kDigit>
    static I32 end(Sum sum, int32_t) { return sum; }
};
#else
template <int kShift>
inline U8 digit_of(U8 quants) { return shift_right<kShift>(quants) & set_bytes(15); }
template <int kBits>
inline I32 shift_left16(I32 a) { return {_mm512_slli_epi16(a.v, kBits)}; }
inline I32 add_products16(I32 sum, U8 digits, U8 x) {
    sum.v = _mm512_add_epi16(sum.v, _mm512_maddubs_epi16(digits.v, x.v));
    asm("" : "+v"(sum.v));  // or GCC puts additions off, and what's to be added into memory
    return sum;
}
inline I32 sum_pairs(I32 a, int16_t factor) { return {_mm512_madd_epi16(a.v, _mm512_set1_epi16(factor))}; }

#include "simd_int16.h"
#endif

}  // namespace glimp::GLIMP_PATH
