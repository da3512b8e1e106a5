// How quantised weights are laid out for the kernels.
//
// A tile holds 16 rows, one for each lane of a vector. Along k it's a list of super-blocks: a header, then blocks of
// 32 values: first their quants, then their scales. Element 4 j + i of row r is byte 4 r + i of the block's vector j
// (64 bytes), so one instruction adds the products of four neighbours of k for 16 rows. The bits of the bytes:
//
//   4 low bits    4 vectors: vector s has the low bits of vector s, and above them those of vector s + 4
//   a fifth bit   1 vector: bit j of a byte belongs to vector j
//   two more bits 2 vectors: bits 2 j of a byte of the first belong to vector j, of the second to vector 4 + j
//   8 bits        8 vectors, offset by 128
//
// Scales are one after the other for the 16 rows. A row beyond n has scales of 0.
#pragma once

#include <cstdint>

#include "../glimp.h"

namespace glimp {

constexpr int kTileRows = 16;
constexpr int kBlock = 32;        // values of k that share a scale
constexpr int kVectorBytes = 64;  // 4 values of each of the 16 rows
constexpr int kVectors = 8;       // of a block

struct PackedLayout {
    int bits;          // of a quant
    int num_blocks;    // of a super-block
    int header_bytes;  // of a super-block
    int scale_bytes;   // of a block

    constexpr int quant_bytes() const { return kTileRows * kBlock * bits / 8; }
    constexpr int block_bytes() const { return quant_bytes() + scale_bytes; }
    constexpr int super_bytes() const { return header_bytes + num_blocks * block_bytes(); }
    constexpr int64_t tile_bytes(int64_t k) const { return k / (kBlock * num_blocks) * super_bytes(); }
};

// bits 0 for what isn't a quantised type
constexpr PackedLayout packed_layout(int32_t type) {
    constexpr int kHalves = 2 * kTileRows, kBytes = kTileRows;  // a float16, a byte for each row
    switch (type) {
        case GLIMP_Q4_0: return {4, 1, 0, kHalves};           // d
        case GLIMP_Q4_1: return {4, 1, 0, 2 * kHalves};       // d, m
        case GLIMP_Q5_0: return {5, 1, 0, kHalves};           // d
        case GLIMP_Q5_1: return {5, 1, 0, 2 * kHalves};       // d, m
        case GLIMP_Q8_0: return {8, 1, 0, kHalves};           // d
        case GLIMP_Q4_K: return {4, 8, 2 * kHalves, 2 * kBytes};  // d, dmin; the block's scale and min
        case GLIMP_Q5_K: return {5, 8, 2 * kHalves, 2 * kBytes};
        case GLIMP_Q6_K: return {6, 8, kHalves, 2 * kBytes};  // d; the scales of the block's halves
        default: return {0, 1, 0, 0};
    }
}

constexpr int64_t num_tiles(int64_t n) { return (n + kTileRows - 1) / kTileRows; }

}  // namespace glimp
