// From GGUF's blocks, row after row, to tiles of 16 rows (packed.h). Four bytes of a row move at a time.

#include <algorithm>
#include <cstring>
#include <new>

#include "ops.h"
#include "packed.h"

namespace glimp {

namespace {

constexpr uint32_t kLow = 0x0f0f0f0fu;

uint32_t word(const uint8_t *p) {
    uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}

// Where the words of one row of a packed block go.
struct RowOfBlock {
    uint8_t *block;
    int row;

    void put(int vector, uint32_t w) const { std::memcpy(block + vector * kVectorBytes + 4 * row, &w, 4); }
};

// The low 4 bits of 32 values, whose bytes come as words of 4.
void put_low_bits(RowOfBlock to, const uint32_t values[kVectors]) {
    for (int s = 0; s < kVectors / 2; ++s) to.put(s, (values[s] & kLow) | (values[s + 4] & kLow) << 4);
}

// 8 words of 4 bytes with one bit each, as one.
void put_fifth_bits(RowOfBlock to, const uint32_t bits[kVectors]) {
    uint32_t all = 0;
    for (int j = 0; j < kVectors; ++j) all |= bits[j] << j;
    to.put(4, all);
}

// Byte i: bits i, i + 4, i + 8 ... of x.
uint32_t every_fourth_bit(uint32_t x) {
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
        uint32_t y = x >> i & 0x11111111u;
        y = (y | y >> 3) & 0x03030303u;
        y = (y | y >> 6) & 0x000f000fu;
        out |= ((y | y >> 12) & 0xffu) << 8 * i;
    }
    return out;
}

// The super-block `from` of one row goes to row `row` of the packed super-block `to`.
using PackRow = void (*)(const uint8_t *from, uint8_t *to, int row);

// Q4_0, Q4_1, Q5_0, Q5_1: one or two float16, 4 bytes of fifth bits, 16 bytes whose halves are values i and i + 16.
template <int32_t kType>
void pack_block32(const uint8_t *from, uint8_t *to, int row) {
    constexpr PackedLayout layout = packed_layout(kType);
    constexpr int num_halves = layout.scale_bytes / (2 * kTileRows);
    for (int i = 0; i < num_halves; ++i)
        std::memcpy(to + layout.quant_bytes() + 2 * (i * kTileRows + row), from + 2 * i, 2);
    from += 2 * num_halves;
    const RowOfBlock out = {to, row};
    if constexpr (layout.bits == 5) {
        out.put(4, every_fourth_bit(word(from)));
        from += 4;
    }
    for (int s = 0; s < 4; ++s) out.put(s, word(from + 4 * s));
}

void pack_q8_0(const uint8_t *from, uint8_t *to, int row) {
    std::memcpy(to + packed_layout(GLIMP_Q8_0).quant_bytes() + 2 * row, from, 2);
    for (int j = 0; j < kVectors; ++j) RowOfBlock{to, row}.put(j, word(from + 2 + 4 * j) ^ 0x80808080u);
}

// Q4_K, Q5_K: d, dmin, 8 scales and 8 mins of 6 bits, fifth bits, 4 low bits of blocks 2 g and 2 g + 1 together.
template <int32_t kType>
void pack_k45(const uint8_t *from, uint8_t *to, int row) {
    constexpr PackedLayout layout = packed_layout(kType);
    const uint8_t *six_bits = from + 4, *fifth = from + 16, *low = fifth + (layout.bits == 5 ? 32 : 0);
    std::memcpy(to + 2 * row, from, 2);
    std::memcpy(to + 2 * (kTileRows + row), from + 2, 2);
    for (int b = 0; b < 8; ++b) {
        uint8_t *block = to + layout.header_bytes + b * layout.block_bytes();
        uint32_t values[kVectors], bits[kVectors];
        for (int j = 0; j < kVectors; ++j) {
            values[j] = word(low + 32 * (b / 2) + 4 * j) >> 4 * (b % 2);
            bits[j] = word(fifth + 4 * j) >> b & 0x01010101u;
        }
        put_low_bits({block, row}, values);
        if constexpr (layout.bits == 5) put_fifth_bits({block, row}, bits);
        const int high = b - 4;
        uint8_t *scales = block + layout.quant_bytes();
        scales[row] = b < 4 ? six_bits[b] & 63 : (six_bits[b + 4] & 15) | six_bits[high] >> 6 << 4;
        scales[kTileRows + row] = b < 4 ? six_bits[b + 4] & 63 : six_bits[b + 4] >> 4 | six_bits[b] >> 6 << 4;
    }
}

// Q6_K: 4 low bits and 2 high bits of 256 values, 16 scales, d. Four blocks share 64 bytes of low bits.
void pack_q6_k(const uint8_t *from, uint8_t *to, int row) {
    constexpr PackedLayout layout = packed_layout(GLIMP_Q6_K);
    std::memcpy(to + 2 * row, from + 208, 2);
    for (int b = 0; b < 8; ++b) {
        uint8_t *block = to + layout.header_bytes + b * layout.block_bytes();
        const int part = b % 4;
        const uint8_t *low = from + 64 * (b / 4) + 32 * (part % 2), *high = from + 128 + 32 * (b / 4);
        uint32_t values[kVectors], two_bits[2] = {};
        for (int j = 0; j < kVectors; ++j) {
            values[j] = word(low + 4 * j) >> 4 * (part / 2);
            two_bits[j / 4] |= (word(high + 4 * j) >> 2 * part & 0x03030303u) << 2 * (j % 4);
        }
        put_low_bits({block, row}, values);
        RowOfBlock{block, row}.put(4, two_bits[0]);
        RowOfBlock{block, row}.put(5, two_bits[1]);
        for (int half = 0; half < 2; ++half)
            block[layout.quant_bytes() + half * kTileRows + row] = from[192 + 2 * b + half];
    }
}

struct Source {
    PackRow pack;
    int bytes;  // of one row's super-block in the file
};

Source source_of(int32_t type) {
    switch (type) {
        case GLIMP_Q4_0: return {pack_block32<GLIMP_Q4_0>, 18};
        case GLIMP_Q4_1: return {pack_block32<GLIMP_Q4_1>, 20};
        case GLIMP_Q5_0: return {pack_block32<GLIMP_Q5_0>, 22};
        case GLIMP_Q5_1: return {pack_block32<GLIMP_Q5_1>, 24};
        case GLIMP_Q8_0: return {pack_q8_0, 34};
        case GLIMP_Q4_K: return {pack_k45<GLIMP_Q4_K>, 144};
        case GLIMP_Q5_K: return {pack_k45<GLIMP_Q5_K>, 176};
        case GLIMP_Q6_K: return {pack_q6_k, 210};
        default: return {nullptr, 0};
    }
}

void pack(glimp_cpu &cpu, const Source &source, const uint8_t *rows, int64_t n, int64_t k, const PackedLayout &layout,
          uint8_t *packed) {
    const int64_t num_supers = k / (kBlock * layout.num_blocks), row_bytes = num_supers * source.bytes;
    cpu.threads.run(num_tiles(n), [&](int64_t tile, int) {
        uint8_t *to = packed + tile * layout.tile_bytes(k);
        const int64_t first = tile * kTileRows, num_rows = std::min<int64_t>(kTileRows, n - first);
        if (num_rows < kTileRows) std::memset(to, 0, static_cast<size_t>(layout.tile_bytes(k)));
        const uint8_t *from = rows + first * row_bytes;
        for (int64_t s = 0; s < num_supers; ++s)
            for (int64_t r = 0; r < num_rows; ++r)
                source.pack(from + r * row_bytes + s * source.bytes, to + s * layout.super_bytes(), static_cast<int>(r));
    });
}

}  // namespace

}  // namespace glimp

extern "C" {

int64_t glimp_packed_bytes(int32_t type, int64_t n, int64_t k) {
    const glimp::PackedLayout layout = glimp::packed_layout(type);
    if (layout.bits == 0 || glimp::check_sizes({n, k, 4}, 1) || k % (glimp::kBlock * layout.num_blocks)) return -1;
    return glimp::num_tiles(n) * layout.tile_bytes(k);
}

int32_t glimp_pack(glimp_cpu *cpu, int32_t type, const void *rows, int64_t n, int64_t k, void *packed) {
    if (!cpu || !rows || !packed) return GLIMP_NULL_POINTER;
    const glimp::PackedLayout layout = glimp::packed_layout(type);
    if (layout.bits == 0) return GLIMP_BAD_TYPE;
    if (glimp_packed_bytes(type, n, k) < 0) return GLIMP_BAD_SIZE;
    const glimp::Source source = glimp::source_of(type);
    return glimp::run_alone(*cpu, [&] {
        glimp::pack(*cpu, source, static_cast<const uint8_t *>(rows), n, k, layout, static_cast<uint8_t *>(packed));
        return GLIMP_OK;
    });
}
}
