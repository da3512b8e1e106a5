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
inline void copy_tail(const Element *from, int64_t count, Element *to) {
    for (int64_t i = 0; i < kLanes; ++i) to[i] = i < count ? from[i] : Element{0};
}

// Sums that are in registers at a time: of kRows rows with kOutputs rows of the weight.
constexpr int kRowsAtATime = kParts == 1 ? 6 : 3;  // 24 sums in 32 registers; 12 in 16
constexpr int kOutputsOfFewRows = 4;
template <int kRows>
constexpr int kOutputs = kParts > 1 && kRows > 1 ? 2 : kOutputsOfFewRows;

// 4 outputs of a row to their place, or as many as there are.
inline void write_sums(const float (&sums)[4], const glimp_weight &weight, int64_t n, int64_t count, float *to,
                       bool accumulate) {
    for (int64_t i = 0; i < count; ++i) {
        const float total = sums[i] + (weight.bias ? weight.bias[n + i] : 0.0f);
        to[i] = accumulate ? to[i] + total : total;
    }
}

// kRows x kOutputs dot products; an output beyond the end repeats the last one, and isn't written.
template <class Type, int kRows>
void dot_products(const glimp_weight &weight, const float *x, int64_t t, int64_t n, int64_t num_outputs,
                  const Output &out) {
    using Element = typename Type::Element;
    constexpr int kCount = kOutputs<kRows>;
    const int64_t k = weight.k;
    const Element *w[kCount];
    for (int i = 0; i < kCount; ++i)
        w[i] = static_cast<const Element *>(weight.data) + (n + (i < num_outputs ? i : num_outputs - 1)) * k;
    const float *rows = x + t * k;
    F32 acc[kRows][kCount];
    for (auto &row : acc)
        for (F32 &a : row) a = set(0.0f);
    int64_t p = 0;
    for (; p + kLanes <= k; p += kLanes) {
        F32 loaded[kCount];
        for (int i = 0; i < kCount; ++i) loaded[i] = Type::load16(w[i] + p);
        for (int r = 0; r < kRows; ++r) {
            const F32 values = load(rows + r * k + p);
            for (int i = 0; i < kCount; ++i) acc[r][i] = fma(loaded[i], values, acc[r][i]);
        }
    }
    if (p < k) {
        Element w_tail[kCount][kLanes];
        float x_tail[kLanes];
        for (int i = 0; i < kCount; ++i) copy_tail(w[i] + p, k - p, w_tail[i]);
        for (int r = 0; r < kRows; ++r) {
            copy_tail(rows + r * k + p, k - p, x_tail);
            for (int i = 0; i < kCount; ++i) acc[r][i] = fma(Type::load16(w_tail[i]), load(x_tail), acc[r][i]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        float sums[4];
        sum_four(acc[r][0], acc[r][1], acc[r][2 % kCount], acc[r][3 % kCount], sums);
        write_sums(sums, weight, n, num_outputs, out.data + (t + r) * out.stride + n, out.accumulate);
    }
}

// The same for a number of rows that isn't known before, and up to kOutputsOfFewRows outputs.
template <class Type, int kRows = kRowsAtATime>
void some_rows(int64_t num_rows, const glimp_weight &weight, const float *x, int64_t t, int64_t n, int64_t end,
               const Output &out) {
    if constexpr (kRows > 1)
        if (num_rows < kRows) return some_rows<Type, kRows - 1>(num_rows, weight, x, t, n, end, out);
    constexpr int64_t kCount = kOutputs<kRows>;
    for (; n < end; n += kCount)
        dot_products<Type, kRows>(weight, x, t, n, end - n < kCount ? end - n : kCount, out);
}

template <int32_t kType>
void multiply_as(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
                 const Output &out) {
    const int64_t end = last * kTileRows < weight.n ? last * kTileRows : weight.n;
    for (int64_t n = first * kTileRows; n < end; n += kOutputsOfFewRows) {
        const int64_t stop = n + kOutputsOfFewRows < end ? n + kOutputsOfFewRows : end;
        for (int64_t t = 0; t < num_tokens; t += kRowsAtATime)
            some_rows<Floats<kType>>(num_tokens - t, weight, x, t, n, stop, out);
    }
}

void multiply(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
              const Output &out) {
    switch (weight.type) {
        case GLIMP_F16: return multiply_as<GLIMP_F16>(weight, x, num_tokens, first, last, out);
        case GLIMP_BF16: return multiply_as<GLIMP_BF16>(weight, x, num_tokens, first, last, out);
        default: return multiply_as<GLIMP_F32>(weight, x, num_tokens, first, last, out);
    }
}

template <int32_t kType>
void row_as(const glimp_weight &weight, int64_t row, float *out) {
    using Type = Floats<kType>;
    const auto *from = static_cast<const typename Type::Element *>(weight.data) + row * weight.k;
    int64_t i = 0;
    for (; i + kLanes <= weight.k; i += kLanes) store(out + i, Type::load16(from + i));
    if (i == weight.k) return;
    typename Type::Element tail[kLanes];
    float lanes[kLanes];
    copy_tail(from + i, weight.k - i, tail);
    store(lanes, Type::load16(tail));
    std::memcpy(out + i, lanes, static_cast<size_t>(weight.k - i) * sizeof(float));
}

void row_of(const glimp_weight &weight, int64_t row, float *out) {
    switch (weight.type) {
        case GLIMP_F16: return row_as<GLIMP_F16>(weight, row, out);
        case GLIMP_BF16: return row_as<GLIMP_BF16>(weight, row, out);
        default: return row_as<GLIMP_F32>(weight, row, out);
    }
}

}  // namespace

extern const FloatLinearKernels kFloatLinear;
const FloatLinearKernels kFloatLinear = {multiply, row_of};

}  // namespace glimp::GLIMP_PATH
