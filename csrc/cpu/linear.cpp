// Products of quantised weights with activations. One output is one lane, with additions in an order that depends on k
// alone: so a row's result doesn't depend on the other rows, and is the same through every way below.

#include "linear.h"

#include "formats.h"

namespace glimp::GLIMP_PATH {

namespace {

constexpr int64_t kAheadBytes = 6144;  // of a tile, asked for before they're needed: what 200 ns of memory bring
constexpr int kRowsOfAllParts = 4;     // as many sums in registers as 8 rows of one part have

// Without it GCC keeps what it has loaded for a second use, beyond the registers: so in memory.
inline void load_anew() { asm volatile("" ::: "memory"); }

// What is in registers at a time: sums of kRows rows for kNumParts parts of a tile, from part kPart on.
template <class FormatOf, int kRowsOf, int kPartOf, int kNumPartsOf>
struct Shape {
    using Format = FormatOf;
    using Dots = Products<Format::kBits, Format::kOffset>;
    using Sum = typename Dots::Sum;
    static constexpr int kRows = kRowsOf, kPart = kPartOf, kNumParts = kNumPartsOf;

    // The parts of a vector.
    template <class V, class Part>
    static void split(const V &vector, Part (&parts)[kNumParts]) {
        parts[0] = part<kPart>(vector);
        if constexpr (kNumParts > 1) parts[1] = part<kPart + 1>(vector);
    }
};

// Adds the products of vectors j ... kEnd - 1 of a block.
template <class S, int kDigit, int j, int kEnd>
GLIMP_INLINE void add_products(const uint8_t *block, const int8_t *q,
                               typename S::Sum (&sums)[S::kNumParts][S::kRows]) {
    if constexpr (j < kEnd) {
        U8Part quants[S::kNumParts];
        S::split(S::Format::template quants<j>(block), quants);
        for (U8Part &part : quants) part = S::Dots::template digit<kDigit>(part);
        for (int r = 0; r < S::kRows; ++r) {
            int32_t four;
            std::memcpy(&four, q + 4 * (j * S::kRows + r), 4);
            const U8Part x = part<0>(set_quad(four));
            for (int i = 0; i < S::kNumParts; ++i) sums[i][r] = S::Dots::add(sums[i][r], quants[i], x);
        }
        add_products<S, kDigit, j + 1, kEnd>(block, q, sums);
    }
}

// dots = the products of vectors j ... kEnd - 1, of quants less their offset.
template <class S, int j, int kEnd, int kDigit = 0>
GLIMP_INLINE void dot_vectors(const uint8_t *block, const int8_t *q, const int32_t *minus_sums,
                              I32Part (&dots)[S::kNumParts][S::kRows]) {
    typename S::Sum sums[S::kNumParts][S::kRows];
    for (auto &of_part : sums)
        for (int r = 0; r < S::kRows; ++r) of_part[r] = S::Dots::template begin<kDigit>(minus_sums[r]);
    add_products<S, kDigit, j, kEnd>(block, q, sums);
    for (int i = 0; i < S::kNumParts; ++i)
        for (int r = 0; r < S::kRows; ++r) {
            const I32Part dot = S::Dots::template end<kDigit>(sums[i][r], minus_sums[r]);
            dots[i][r] = kDigit > 0 ? add(dots[i][r], dot) : dot;
        }
    if constexpr (kDigit + 1 < S::Dots::kDigits) {
        load_anew();
        dot_vectors<S, j, kEnd, kDigit + 1>(block, q, minus_sums, dots);
    }
}

// Ask for block b of a tile, or, beyond its end, of the next one.
template <class Format>
GLIMP_INLINE void fetch(const uint8_t *tile, int64_t b) {
    const uint8_t *block = Format::block_of(tile, b);  // tiles are one after the other
    for (int line = 0; line < Format::kLayout.block_bytes(); line += kVectorBytes) __builtin_prefetch(block + line);
}

// A block of a group's rows, from the first row on.
struct BlockOfRows {
    const int8_t *q;
    const float *scale, *moment;
    const int32_t *minus_sums;
};

// Adds a block's products to acc, the outputs of one shape.
template <class S>
GLIMP_INLINE void add_block(const uint8_t *super, const uint8_t *block, const BlockOfRows &x,
                            F32Part (&acc)[S::kNumParts][S::kRows]) {
    using Format = typename S::Format;
    constexpr int kRows = S::kRows, kNumParts = S::kNumParts;
    constexpr int kFirst = Format::kHasHalves ? kVectors / 2 : kVectors;
    I32Part dots[kNumParts][kRows];
    F32Part products[kNumParts][kRows], scale[kNumParts], shift[kNumParts];
    dot_vectors<S, 0, kFirst>(block, x.q, x.minus_sums + Format::kHasHalves * kRows, dots);
    S::split(Format::scales(super, block).scale, scale);
    for (int i = 0; i < kNumParts; ++i)
        for (int r = 0; r < kRows; ++r) products[i][r] = to_float(dots[i][r]) * scale[i];
    if constexpr (Format::kHasHalves) {
        dot_vectors<S, kFirst, kVectors>(block, x.q, x.minus_sums + 2 * kRows, dots);
        S::split(Format::scales(super, block).second_half, scale);
        for (int i = 0; i < kNumParts; ++i)
            for (int r = 0; r < kRows; ++r) products[i][r] = fma(to_float(dots[i][r]), scale[i], products[i][r]);
    }
    S::split(Format::scales(super, block).shift, shift);
    for (int i = 0; i < kNumParts; ++i)
        for (int r = 0; r < kRows; ++r) {
            acc[i][r] = fma(products[i][r], part<0>(set(x.scale[r])), acc[i][r]);
            if constexpr (Format::kHasShift) acc[i][r] = fma(shift[i], part<0>(set(x.moment[r])), acc[i][r]);
        }
}

// acc = the products of a group of rows with a tile: [kParts][kRows], in turns of kNumParts parts.
template <class Format, int kRows, int kNumParts>
GLIMP_INLINE void multiply(const uint8_t *tile, const QuantizedRows &x, int64_t group,
                           F32Part (&acc)[kParts / kNumParts][kNumParts][kRows]) {
    const int64_t num_blocks = x.k / kBlock, before = group * kGroup * num_blocks;
    // the first group's pass brings the tile from memory, the others find it in the cache
    const int64_t blocks_ahead = group > 0 ? 0 : kAheadBytes / Format::kLayout.block_bytes();
    const int64_t ahead = blocks_ahead < num_blocks ? blocks_ahead : num_blocks;
    BlockOfRows rows = {x.q + before * kBlock, x.scale + before, x.moment + before, x.minus_sums + before * 3};
    for (auto &turn : acc)
        for (auto &of_part : turn)
            for (F32Part &a : of_part) a = part<0>(set(0.0f));
    for (int64_t b = 0; b < num_blocks; ++b) {
        const uint8_t *super = Format::super_of(tile, b), *block = Format::block_of(tile, b);
        fetch<Format>(tile, b + ahead);
        add_block<Shape<Format, kRows, 0, kNumParts>>(super, block, rows, acc[0]);
        if constexpr (kNumParts < kParts) {
            load_anew();
            add_block<Shape<Format, kRows, 1, kNumParts>>(super, block, rows, acc[1]);
        }
        rows = {rows.q + kBlock * kRows, rows.scale + kRows, rows.moment + kRows, rows.minus_sums + 3 * kRows};
    }
}

// The last tile's outputs where n isn't a multiple of 16.
[[gnu::noinline]] void write_some(F32 acc, const float *bias, int64_t count, bool accumulate, float *to) {
    float lanes[kTileRows];
    store(lanes, acc);
    for (int64_t i = 0; i < count; ++i) {
        if (bias) lanes[i] = lanes[i] + bias[i];
        to[i] = accumulate ? to[i] + lanes[i] : lanes[i];
    }
}

// 16 outputs of row t to their place: with the bias, and with what's there.
inline void write_outputs(F32 acc, const glimp_weight &weight, int64_t tile, int64_t t, const Output &out) {
    const int64_t first = tile * kTileRows;
    float *to = out.data + t * out.stride + first;
    const float *bias = weight.bias ? weight.bias + first : nullptr;
    if (weight.n - first < kTileRows) return write_some(acc, bias, weight.n - first, out.accumulate, to);
    if (bias) acc = acc + load(bias);
    store(to, out.accumulate ? load(to) + acc : acc);
}

// A group of kRows rows times a tile.
template <class Format, int kRows>
void group_times_tile(const glimp_weight &weight, int64_t tile, const QuantizedRows &x, int64_t group,
                      const Output &out) {
    constexpr int kNumParts = kRows <= kRowsOfAllParts ? kParts : 1;
    F32Part acc[kParts / kNumParts][kNumParts][kRows];
    const auto *data = static_cast<const uint8_t *>(weight.data) + tile * Format::tile_bytes(weight.k);
    multiply<Format, kRows, kNumParts>(data, x, group, acc);
    for (int r = 0; r < kRows; ++r) {
        F32Part parts[kParts];
        for (int i = 0; i < kParts; ++i) parts[i] = acc[i / kNumParts][i % kNumParts][r];
        write_outputs(join(parts), weight, tile, group * kGroup + r, out);
    }
}

// The same for a number of rows that isn't known before.
template <class Format, int kRows = kGroup>
void some_rows_times_tile(int64_t num_rows, const glimp_weight &weight, int64_t tile, const QuantizedRows &x,
                          int64_t group, const Output &out) {
    if (num_rows == kRows) return group_times_tile<Format, kRows>(weight, tile, x, group, out);
    if constexpr (kRows > 1) some_rows_times_tile<Format, kRows - 1>(num_rows, weight, tile, x, group, out);
}

void quantized(const glimp_weight &weight, const QuantizedRows &x, int64_t first, int64_t last, const Output &out) {
    with_format(weight.type, [&](auto format) {
        for (int64_t tile = first; tile < last; ++tile)
            for (int64_t group = 0; group * kGroup < x.num_rows; ++group)
                some_rows_times_tile<decltype(format)>(x.rows_of_group(group), weight, tile, x, group, out);
    });
}

// Blocks of 32 rounded to int8: scale = max |x| / 127, ties to even.
void quantize(const float *x, const QuantizedRows &rows, int64_t t) {
    const int64_t num_blocks = rows.k / kBlock, group = t / kGroup, r = t % kGroup;
    const int64_t num_rows = rows.rows_of_group(group);
    int8_t *to = rows.q + group * kGroup * rows.k + 4 * r;
    int32_t *minus_sums = rows.minus_sums + group * kGroup * 3 * num_blocks + r;
    const int64_t first = group * kGroup * num_blocks + r;
    for (int64_t b = 0; b < num_blocks; ++b) {
        const F32 low = load(x + b * kBlock), high = load(x + b * kBlock + kLanes);
        const float most = largest(max(abs(low), abs(high)));
        const float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
        const I32 q_low = to_int(low * set(inverse)), q_high = to_int(high * set(inverse));
        int8_t q[kBlock];
        store_signed(q, q_low);
        store_signed(q + kLanes, q_high);
        for (int j = 0; j < kVectors; ++j) std::memcpy(to + 4 * (b * kVectors + j) * num_rows, q + 4 * j, 4);
        int32_t sums[3];
        minus_sums_of(q, sums);
        for (int i = 0; i < 3; ++i) minus_sums[(3 * b + i) * num_rows] = sums[i];
        rows.scale[first + b * num_rows] = scale;
        rows.moment[first + b * num_rows] = scale * static_cast<float>(sum(q_low + q_high));
    }
}

template <class Format>
void dequantize_row(const glimp_weight &weight, int64_t row, float *out) {
    const int64_t r = row % kTileRows;
    const uint8_t *tile =
        static_cast<const uint8_t *>(weight.data) + row / kTileRows * Format::tile_bytes(weight.k);
    for (int64_t b = 0; b < weight.k / kBlock; ++b) {
        const uint8_t *block = Format::block_of(tile, b);
        uint8_t quants[kVectors * kVectorBytes];
        unpack_quants<Format>(block, quants);
        const Scales scales = Format::scales(Format::super_of(tile, b), block);
        float lanes[3][kTileRows];
        store(lanes[0], scales.scale), store(lanes[1], scales.second_half), store(lanes[2], scales.shift);
        for (int i = 0; i < kBlock; ++i) {
            const int q = quants[i / 4 * kVectorBytes + 4 * r + i % 4] - Format::kOffset;
            const float scale = lanes[Format::kHasHalves && i >= kBlock / 2][r];
            out[b * kBlock + i] = static_cast<float>(q) * scale + lanes[2][r];
        }
    }
}

void dequantize(const glimp_weight &weight, int64_t row, float *out) {
    with_format(weight.type, [&](auto format) { dequantize_row<decltype(format)>(weight, row, out); });
}

}  // namespace

extern const LinearKernels kLinear;
const LinearKernels kLinear = {quantize, quantized, dequantize};

}  // namespace glimp::GLIMP_PATH
