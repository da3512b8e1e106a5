// Products of float weights, rows as the file has them, with activations. One output is one sum over lanes, with
// additions in an order that depends on k alone: so a row's result doesn't depend on the other rows.

#include "linear.h"
#include "packed.h"
#include "simd.h"

namespace glimp::GLIMP_PATH {

namespace {

template <int32_t kType>
struct Floats;
template <>
struct Floats<GLIMP_F32> {
    using Element = float;
    static F32 load16(const float *p) { return load(p); }
};
template <>
struct Floats<GLIMP_F16> {
    using Element = uint16_t;
    static F32 load16(const uint16_t *p) { return load_half(p); }
};
template <>
struct Floats<GLIMP_BF16> {
    using Element = uint16_t;
    static F32 load16(const uint16_t *p) { return load_bfloat(p); }
};

// The last `count` values, and zeros.
template <class Element>
struct Tail {
    Tail(const Element *from, int64_t count) {
        for (int64_t i = 0; i < kLanes; ++i) data[i] = i < count ? from[i] : Element{0};
    }
    Element data[kLanes];
};

// Sums that are in registers at a time: of kRows rows with kOutputs rows of the weight.
constexpr int kRowsAtATime = kParts == 1 ? 6 : 3;  // 24 sums in 32 registers; 12 in 16
constexpr int kOutputsOfFewRows = 4;
template <int kRows>
constexpr int kOutputs = kParts > 1 && kRows > 1 ? 2 : kOutputsOfFewRows;

// kCount outputs of a row to their place.
template <int kCount>
inline void write_all(const float (&sums)[4], const float *bias, bool accumulate, float *to) {
    float totals[kCount];
    for (int i = 0; i < kCount; ++i) totals[i] = sums[i];
    if (bias)
        for (int i = 0; i < kCount; ++i) totals[i] = totals[i] + bias[i];
    if (accumulate)
        for (int i = 0; i < kCount; ++i) totals[i] = to[i] + totals[i];
    std::memcpy(to, totals, sizeof totals);
}

// The same, or as many outputs as there are.
template <int kCount>
inline void write_sums(const float (&sums)[4], const float *bias, int64_t count, bool accumulate, float *to) {
    if (count == kCount) return write_all<kCount>(sums, bias, accumulate, to);
    if constexpr (kCount > 1) write_sums<kCount - 1>(sums, bias, count, accumulate, to);
}

// What is multiplied, kStep numbers of each row at a time: weights of a type with x in float32.
template <int32_t kType>
struct Plain {
    using Weight = typename Floats<kType>::Element;
    using X = float;
    static constexpr int kStep = kLanes;
    static F32 weights(const Weight *p) { return Floats<kType>::load16(p); }
    static F32 first_weights(const Weight *p, int64_t count) { return Floats<kType>::load16(Tail<Weight>(p, count).data); }
    static F32 numbers(const X *p) { return load(p); }
    static F32 first_numbers(const X *p, int64_t count) { return load_first(p, count); }
    static F32 add(F32 weights, F32 numbers, F32 sum) { return fma(weights, numbers, sum); }
};

#if defined(__AVX512BF16__)
// ... and bfloat16 with x rounded to it.
struct Rounded {
    using Weight = uint16_t;
    using X = uint16_t;
    static constexpr int kStep = 2 * kLanes;
    static BF16 weights(const Weight *p) { return load_bfloats(p); }
    static BF16 first_weights(const Weight *p, int64_t count) { return load_first_bfloats(p, count); }
    static BF16 numbers(const X *p) { return load_bfloats(p); }
    static BF16 first_numbers(const X *p, int64_t count) { return load_first_bfloats(p, count); }
    static F32 add(BF16 weights, BF16 numbers, F32 sum) { return dot(weights, numbers, sum); }
};
#endif

// kRows x kOutputs dot products; an output beyond the end repeats the last one, and isn't written.
template <class Kind, int kRows>
void dot_products(const glimp_weight &weight, const typename Kind::X *x, int64_t t, int64_t n, int64_t num_outputs,
                  const Output &out) {
    constexpr int kCount = kOutputs<kRows>;
    const int64_t k = weight.k;
    const typename Kind::Weight *w[kCount];
    for (int i = 0; i < kCount; ++i)
        w[i] = static_cast<const typename Kind::Weight *>(weight.data) + (n + (i < num_outputs ? i : num_outputs - 1)) * k;
    const typename Kind::X *rows = x + t * k;
    F32 acc[kRows][kCount];
    for (auto &row : acc)
        for (F32 &a : row) a = set(0.0f);
    int64_t p = 0;
    for (; p + Kind::kStep <= k; p += Kind::kStep) {
        decltype(Kind::weights(w[0])) loaded[kCount];
        for (int i = 0; i < kCount; ++i) loaded[i] = Kind::weights(w[i] + p);
        for (int r = 0; r < kRows; ++r) {
            const auto numbers = Kind::numbers(rows + r * k + p);
            for (int i = 0; i < kCount; ++i) acc[r][i] = Kind::add(loaded[i], numbers, acc[r][i]);
        }
    }
    if (p < k)
        for (int r = 0; r < kRows; ++r) {
            const auto numbers = Kind::first_numbers(rows + r * k + p, k - p);
            for (int i = 0; i < kCount; ++i)
                acc[r][i] = Kind::add(Kind::first_weights(w[i] + p, k - p), numbers, acc[r][i]);
        }
    const float *bias = weight.bias ? weight.bias + n : nullptr;
    for (int r = 0; r < kRows; ++r) {
        float sums[4];
        sum_four(acc[r][0], acc[r][1], acc[r][2 % kCount], acc[r][3 % kCount], sums);
        write_sums<kCount>(sums, bias, num_outputs, out.accumulate, out.data + (t + r) * out.stride + n);
    }
}

// The same for a number of rows that isn't known before, and up to kOutputsOfFewRows outputs.
template <class Kind, int kRows = kRowsAtATime>
void some_rows(int64_t num_rows, const glimp_weight &weight, const typename Kind::X *x, int64_t t, int64_t n, int64_t end,
               const Output &out) {
    if constexpr (kRows > 1)
        if (num_rows < kRows) return some_rows<Kind, kRows - 1>(num_rows, weight, x, t, n, end, out);
    constexpr int64_t kCount = kOutputs<kRows>;
    for (; n < end; n += kCount)
        dot_products<Kind, kRows>(weight, x, t, n, end - n < kCount ? end - n : kCount, out);
}

template <class Kind>
void multiply_as(const glimp_weight &weight, const typename Kind::X *x, int64_t num_tokens, int64_t first, int64_t last,
                 const Output &out) {
    const int64_t end = last * kTileRows < weight.n ? last * kTileRows : weight.n;
    for (int64_t n = first * kTileRows; n < end; n += kOutputsOfFewRows) {
        const int64_t stop = n + kOutputsOfFewRows < end ? n + kOutputsOfFewRows : end;
        for (int64_t t = 0; t < num_tokens; t += kRowsAtATime)
            some_rows<Kind>(num_tokens - t, weight, x, t, n, stop, out);
    }
}

void multiply(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
              const Output &out) {
    switch (weight.type) {
        case GLIMP_F16: return multiply_as<Plain<GLIMP_F16>>(weight, x, num_tokens, first, last, out);
        case GLIMP_BF16: return multiply_as<Plain<GLIMP_BF16>>(weight, x, num_tokens, first, last, out);
        default: return multiply_as<Plain<GLIMP_F32>>(weight, x, num_tokens, first, last, out);
    }
}

template <int32_t kType>
void row_as(const glimp_weight &weight, int64_t row, float *out) {
    using Type = Floats<kType>;
    const auto *from = static_cast<const typename Type::Element *>(weight.data) + row * weight.k;
    int64_t i = 0;
    for (; i + kLanes <= weight.k; i += kLanes) store(out + i, Type::load16(from + i));
    if (i == weight.k) return;
    store_first(out + i, Type::load16(Tail<typename Type::Element>(from + i, weight.k - i).data), weight.k - i);
}

void row_of(const glimp_weight &weight, int64_t row, float *out) {
    switch (weight.type) {
        case GLIMP_F16: return row_as<GLIMP_F16>(weight, row, out);
        case GLIMP_BF16: return row_as<GLIMP_BF16>(weight, row, out);
        default: return row_as<GLIMP_F32>(weight, row, out);
    }
}

#if defined(__AVX512BF16__)
void round(const float *x, int64_t count, uint16_t *to) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_bfloats(to + i, load(x + i));
    if (i == count) return;
    uint16_t tail[kLanes];
    store_bfloats(tail, load_first(x + i, count - i));
    std::memcpy(to + i, tail, static_cast<size_t>(count - i) * sizeof(uint16_t));
}
constexpr auto kRound = round;
constexpr auto kMultiplyRounded = multiply_as<Rounded>;
#else
constexpr decltype(FloatLinearKernels::round) kRound = nullptr;
constexpr decltype(FloatLinearKernels::multiply_rounded) kMultiplyRounded = nullptr;
#endif

}  // namespace

extern const FloatLinearKernels kFloatLinear;
const FloatLinearKernels kFloatLinear = {multiply, kRound, kMultiplyRounded, row_of};

}  // namespace glimp::GLIMP_PATH
