// Products of quantised and float weights with activations. One output is one lane (quantised) or one sum over lanes
// (float), with additions in an order that depends on k alone: so a row's result doesn't depend on the other rows, and
// is the same through every way below.

#include "linear.h"

#include "formats.h"

namespace glimp::GLIMP_PATH {

namespace {

// How many tiles are multiplied at a time. It changes no result.
#if defined(__AVX512F__)
constexpr int kMaxTiles = 2;
#else
constexpr int kMaxTiles = 1;
#endif

constexpr int64_t kAheadBytes = 6144;  // of each tile, asked for before they're needed: what 200 ns of memory bring

// Adds a block's products, in int32, for kTiles tiles and kRows rows.
template <class Format, int kTiles, int kRows, int j, int kEnd>
GLIMP_INLINE void dot_vectors(const uint8_t *const blocks[kTiles], const int8_t *q, I32 (&dots)[kTiles][kRows]) {
    if constexpr (j < kEnd) {
        U8 weights[kTiles];
        for (int v = 0; v < kTiles; ++v) weights[v] = Format::template quants<j>(blocks[v]);
        for (int r = 0; r < kRows; ++r) {
            int32_t four;
            std::memcpy(&four, q + 4 * (j * kRows + r), 4);
            const U8 x = set_quad(four);
            for (int v = 0; v < kTiles; ++v) dots[v][r] = dot4<Format::kMax>(dots[v][r], weights[v], x);
        }
        dot_vectors<Format, kTiles, kRows, j + 1, kEnd>(blocks, q, dots);
    }
}

// What the sums of products begin with: -offset * sum(x), so that quants can be used as they're stored.
template <class Format, int kTiles, int kRows>
GLIMP_INLINE void begin_dots(const int32_t *minus_sums, I32 (&dots)[kTiles][kRows]) {
    for (int r = 0; r < kRows; ++r) {
        I32 start = set(int32_t{0});
        if constexpr (!Format::kHasShift) start = shift_left<Format::kBits - 1>(set(minus_sums[r]));
        for (int v = 0; v < kTiles; ++v) dots[v][r] = start;
    }
}

// Ask for block b of a tile, or, beyond its end, for that of the tile kTiles further.
template <class Format, int kTiles>
GLIMP_INLINE void fetch(const uint8_t *tile, int64_t b, int64_t num_blocks) {
    constexpr int kBytes = Format::kLayout.block_bytes();
    const int64_t beyond = b < num_blocks ? 0 : kTiles - 1;  // tiles are one after the other
    const uint8_t *block = Format::block_of(tile, b) + beyond * Format::tile_bytes(num_blocks * kBlock);
    for (int line = 0; line < kBytes; line += kVectorBytes) __builtin_prefetch(block + line);
}

// acc [kTiles][kRows] of 16 outputs: the products of a group of rows with tiles.
template <class Format, int kTiles, int kRows>
GLIMP_INLINE void multiply(const uint8_t *const tiles[kTiles], const QuantizedRows &x, int64_t group,
                           F32 (&acc)[kTiles][kRows]) {
    const int64_t num_blocks = x.k / kBlock, before = group * kGroup * num_blocks;
    // the first group's pass brings the tile from memory, the others find it in the cache
    const int64_t blocks_ahead = group > 0 ? 0 : kAheadBytes / Format::kLayout.block_bytes();
    const int64_t ahead = blocks_ahead < num_blocks ? blocks_ahead : num_blocks;
    const int8_t *q = x.q + before * kBlock;
    const float *scale = x.scale + before, *moment = x.moment + before;
    const int32_t *minus_sums = x.minus_sums + before * 3;
    for (auto &tile : acc)
        for (F32 &a : tile) a = set(0.0f);
    for (int64_t b = 0; b < num_blocks; ++b) {
        const uint8_t *blocks[kTiles];
        for (int v = 0; v < kTiles; ++v) {
            blocks[v] = Format::block_of(tiles[v], b);
            fetch<Format, kTiles>(tiles[v], b + ahead, num_blocks);
        }
        I32 dots[kTiles][kRows];
        F32 products[kTiles][kRows];
        if constexpr (Format::kHasHalves) {
            begin_dots<Format, kTiles, kRows>(minus_sums + kRows, dots);
            dot_vectors<Format, kTiles, kRows, 0, kVectors / 2>(blocks, q, dots);
            for (int v = 0; v < kTiles; ++v) {
                const F32 first = Format::scales(Format::super_of(tiles[v], b), blocks[v]).scale;
                for (int r = 0; r < kRows; ++r) products[v][r] = to_float(dots[v][r]) * first;
            }
            begin_dots<Format, kTiles, kRows>(minus_sums + 2 * kRows, dots);
            dot_vectors<Format, kTiles, kRows, kVectors / 2, kVectors>(blocks, q, dots);
            for (int v = 0; v < kTiles; ++v) {
                const F32 second = Format::scales(Format::super_of(tiles[v], b), blocks[v]).second_half;
                for (int r = 0; r < kRows; ++r) products[v][r] = fma(to_float(dots[v][r]), second, products[v][r]);
            }
        } else {
            begin_dots<Format, kTiles, kRows>(minus_sums, dots);
            dot_vectors<Format, kTiles, kRows, 0, kVectors>(blocks, q, dots);
            for (int v = 0; v < kTiles; ++v) {
                const F32 whole = Format::scales(Format::super_of(tiles[v], b), blocks[v]).scale;
                for (int r = 0; r < kRows; ++r) products[v][r] = to_float(dots[v][r]) * whole;
            }
        }
        for (int v = 0; v < kTiles; ++v) {
            const F32 shift = Format::scales(Format::super_of(tiles[v], b), blocks[v]).shift;
            for (int r = 0; r < kRows; ++r) {
                acc[v][r] = fma(products[v][r], set(scale[r]), acc[v][r]);
                if constexpr (Format::kHasShift) acc[v][r] = fma(shift, set(moment[r]), acc[v][r]);
            }
        }
        q += kBlock * kRows, scale += kRows, moment += kRows, minus_sums += 3 * kRows;
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

// A group of kRows rows times kTiles tiles from tile `tile` on.
template <class Format, int kTiles, int kRows>
void group_times_tiles(const uint8_t *const tiles[kTiles], const glimp_weight &weight, int64_t tile,
                       const QuantizedRows &x, int64_t group, const Output &out) {
    F32 acc[kTiles][kRows];
    multiply<Format, kTiles, kRows>(tiles, x, group, acc);
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kTiles; ++v) write_outputs(acc[v][r], weight, tile + v, group * kGroup + r, out);
}

// The same for a number of rows that isn't known before.
template <class Format, int kTiles, int kRows = kGroup>
void some_rows_times_tiles(int64_t num_rows, const uint8_t *const tiles[kTiles], const glimp_weight &weight,
                           int64_t tile, const QuantizedRows &x, int64_t group, const Output &out) {
    if (num_rows == kRows) return group_times_tiles<Format, kTiles, kRows>(tiles, weight, tile, x, group, out);
    if constexpr (kRows > 1)
        some_rows_times_tiles<Format, kTiles, kRows - 1>(num_rows, tiles, weight, tile, x, group, out);
}

// All rows times kTiles tiles.
template <class Format, int kTiles>
void rows_times_tiles(const glimp_weight &weight, const QuantizedRows &x, int64_t tile, const Output &out) {
    const uint8_t *tiles[kTiles];
    for (int v = 0; v < kTiles; ++v)
        tiles[v] = static_cast<const uint8_t *>(weight.data) + (tile + v) * Format::tile_bytes(weight.k);
    for (int64_t group = 0; group * kGroup < x.num_rows; ++group)
        some_rows_times_tiles<Format, kTiles>(x.rows_of_group(group), tiles, weight, tile, x, group, out);
}

void quantized(const glimp_weight &weight, const QuantizedRows &x, int64_t first, int64_t last, const Output &out) {
    with_format(weight.type, [&](auto format) {
        using Format = decltype(format);
        int64_t tile = first;
        for (; tile + kMaxTiles <= last; tile += kMaxTiles) rows_times_tiles<Format, kMaxTiles>(weight, x, tile, out);
        for (; tile < last; ++tile) rows_times_tiles<Format, 1>(weight, x, tile, out);
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
        const int32_t first_half = sum(q_low), second_half = sum(q_high);
        const int32_t sums[] = {first_half + second_half, first_half, second_half};
        for (int i = 0; i < 3; ++i) minus_sums[(3 * b + i) * num_rows] = -sums[i];
        rows.scale[first + b * num_rows] = scale;
        rows.moment[first + b * num_rows] = scale * static_cast<float>(sums[0]);
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

// Float types: rows of the weight as they are.

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

constexpr int kFloatOutputs = 4, kFloatRows = 4;

// kFloatRows x kFloatOutputs dot products; what's beyond the end repeats the last one, and isn't written.
template <class Type>
void dot_products(const glimp_weight &weight, const float *x, int64_t t, int64_t num_rows, int64_t n,
                  int64_t num_outputs, const Output &out) {
    using Element = typename Type::Element;
    const int64_t k = weight.k;
    const Element *w[kFloatOutputs];
    const float *rows[kFloatRows];
    for (int i = 0; i < kFloatOutputs; ++i)
        w[i] = static_cast<const Element *>(weight.data) + (n + (i < num_outputs ? i : num_outputs - 1)) * k;
    for (int r = 0; r < kFloatRows; ++r) rows[r] = x + (t + (r < num_rows ? r : num_rows - 1)) * k;
    F32 acc[kFloatRows][kFloatOutputs];
    for (auto &row : acc)
        for (F32 &a : row) a = set(0.0f);
    const auto add = [&](auto weight_at, auto row_at) {
        F32 loaded[kFloatOutputs];
        for (int i = 0; i < kFloatOutputs; ++i) loaded[i] = weight_at(i);
        for (int r = 0; r < kFloatRows; ++r) {
            if (r >= num_rows) break;
            const F32 values = row_at(r);
            for (int i = 0; i < kFloatOutputs; ++i) acc[r][i] = fma(loaded[i], values, acc[r][i]);
        }
    };
    int64_t p = 0;
    for (; p + kLanes <= k; p += kLanes)
        add([&](int i) { return Type::load16(w[i] + p); }, [&](int r) { return load(rows[r] + p); });
    if (p < k) {
        Element w_tail[kFloatOutputs][kLanes];
        float x_tail[kFloatRows][kLanes];
        for (int i = 0; i < kFloatOutputs; ++i) copy_tail(w[i] + p, k - p, w_tail[i]);
        for (int r = 0; r < kFloatRows; ++r) copy_tail(rows[r] + p, k - p, x_tail[r]);
        add([&](int i) { return Type::load16(w_tail[i]); }, [&](int r) { return load(x_tail[r]); });
    }
    for (int64_t r = 0; r < num_rows; ++r)
        for (int64_t i = 0; i < num_outputs; ++i) {
            float *to = out.data + (t + r) * out.stride + n + i;
            const float total = sum(acc[r][i]) + (weight.bias ? weight.bias[n + i] : 0.0f);
            *to = out.accumulate ? *to + total : total;
        }
}

template <int32_t kType>
void floating_of(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
                 const Output &out) {
    const int64_t end = last * kTileRows < weight.n ? last * kTileRows : weight.n;
    for (int64_t n = first * kTileRows; n < end; n += kFloatOutputs)
        for (int64_t t = 0; t < num_tokens; t += kFloatRows) {
            const int64_t num_rows = num_tokens - t < kFloatRows ? num_tokens - t : kFloatRows;
            const int64_t num_outputs = end - n < kFloatOutputs ? end - n : kFloatOutputs;
            dot_products<Floats<kType>>(weight, x, t, num_rows, n, num_outputs, out);
        }
}

void floating(const glimp_weight &weight, const float *x, int64_t num_tokens, int64_t first, int64_t last,
              const Output &out) {
    switch (weight.type) {
        case GLIMP_F16: return floating_of<GLIMP_F16>(weight, x, num_tokens, first, last, out);
        case GLIMP_BF16: return floating_of<GLIMP_BF16>(weight, x, num_tokens, first, last, out);
        default: return floating_of<GLIMP_F32>(weight, x, num_tokens, first, last, out);
    }
}

template <int32_t kType>
void float_row(const glimp_weight &weight, int64_t row, float *out) {
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

void dequantize(const glimp_weight &weight, int64_t row, float *out) {
    switch (weight.type) {
        case GLIMP_F32: return float_row<GLIMP_F32>(weight, row, out);
        case GLIMP_F16: return float_row<GLIMP_F16>(weight, row, out);
        case GLIMP_BF16: return float_row<GLIMP_BF16>(weight, row, out);
        default: break;
    }
    with_format(weight.type, [&](auto format) { dequantize_row<decltype(format)>(weight, row, out); });
}

}  // namespace

extern const LinearKernels kLinear;
const LinearKernels kLinear = {quantize, quantized, floating, dequantize};

}  // namespace glimp::GLIMP_PATH
