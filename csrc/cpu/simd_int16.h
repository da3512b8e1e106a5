// Products for code paths without an instruction that sums four of them: in int16, two at a time.
//
// Where sums of int16 have an offset, it's in two words of an int32: of the 1st and 2nd value of four, and of the 3rd
// and 4th. Included by simd_avx2.h and simd_avx512.h, which have the instructions; see the latter for what this is.

inline void minus_sums_of(const int8_t *q, int32_t (&sums)[3]) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(q));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);  // the first half of them of the block's first
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    pairs = _mm256_sub_epi16(_mm256_setzero_si256(), pairs);
    const __m128i first = _mm256_castsi256_si128(pairs), second = _mm256_extracti128_si256(pairs, 1);
    sums[0] = _mm_cvtsi128_si32(_mm_add_epi16(first, second));
    sums[1] = _mm_cvtsi128_si32(_mm_slli_epi16(first, 5)), sums[2] = _mm_cvtsi128_si32(_mm_slli_epi16(second, 5));
}

// What fits: 8 vectors of quants of 4 bits (8 * 2 * 15 * 127 = 30480), 8 of 5 bits less 16 (8 * 2 * 16 * 127 = 32512),
// 4 of 6 bits less 32 (the same); 8 bits are two digits of 4. What overflows on the way to a sum that fits comes back.
template <int kBits, int kOffset>
struct Products {
    static constexpr int kDigits = kBits == 8 ? 2 : 1;
    static constexpr bool kIsCentred = kOffset > 0 || kBits > 4;
    using Sum = I32Part;

    template <int kDigit>
    static U8Part digit(U8Part quants) {
        if constexpr (kDigits == 1) return quants;
        return digit_of<4 * kDigit>(quants);
    }
    template <int kDigit>
    static Sum begin(int32_t minus_sums) {
        if constexpr (!kIsCentred || kDigit + 1 < kDigits) return part<0>(set(int32_t{0}));
        const Sum sum = part<0>(set(minus_sums));
        return kBits == 6 ? sum : shift_left16<kBits / kDigits - 1>(sum);
    }
    static Sum add(Sum sum, U8Part digits, U8Part x) { return add_products16(sum, digits, x); }
    template <int kDigit>
    static I32Part end(Sum sum, int32_t minus_sums) {
        const I32Part dots = sum_pairs(sum, 1 << 4 * kDigit);
        if constexpr (kOffset > 0 || !kIsCentred) return dots;
        return glimp::GLIMP_PATH::add(dots, sum_pairs(begin<kDigit>(minus_sums), -1));
    }
};
