// How each packed type is read (packed.h): a block's vectors of unsigned quants, and its scales.
//
// A weight is scale * (quant - kOffset) + shift. The blocks of types with two halves have a scale for each 16 values.
#pragma once

#include "packed.h"
#include "simd.h"

namespace glimp::GLIMP_PATH {

struct Scales {
    F32 scale, second_half, shift;
};

// The 4 low bits of vector j, as all types but Q8_0 have them.
template <int j>
inline U8 low_bits(const uint8_t *block) {
    const U8 both = load_bytes(block + j % 4 * kVectorBytes);
    return (j < 4 ? both : shift_right<4>(both)) & set_bytes(0x0f);
}

// Bits kShift ... of x at bits 4 ... of the result, as far as the mask lets them.
template <int kShift, uint8_t kMask>
inline U8 at_bit_4(U8 x) {
    if constexpr (kShift < 4) {
        return shift_left<4 - kShift>(x) & set_bytes(kMask);
    } else {
        return shift_right<kShift - 4>(x) & set_bytes(kMask);
    }
}

inline const uint16_t *halves(const uint8_t *p, int row_of_halves) {
    return reinterpret_cast<const uint16_t *>(p) + row_of_halves * kTileRows;
}

template <int32_t kTypeOf>
struct Packed {
    static constexpr int32_t kType = kTypeOf;
    static constexpr PackedLayout kLayout = packed_layout(kTypeOf);
    static constexpr int kBits = kLayout.bits;
    static constexpr bool kHasHalves = kType == GLIMP_Q6_K;
    static constexpr bool kHasShift =
        kType == GLIMP_Q4_1 || kType == GLIMP_Q5_1 || kType == GLIMP_Q4_K || kType == GLIMP_Q5_K;
    static constexpr int kOffset = kHasShift ? 0 : 1 << (kBits - 1);

    template <int j>
    static U8 quants(const uint8_t *block) {
        if constexpr (kBits == 8) {
            return load_bytes(block + j * kVectorBytes);
        } else if constexpr (kBits == 6) {
            const U8 high = load_bytes(block + (4 + j / 4) * kVectorBytes);
            return low_bits<j>(block) | at_bit_4<2 * (j % 4), 0x30>(high);
        } else if constexpr (kBits == 5) {
            return low_bits<j>(block) | at_bit_4<j, 0x10>(load_bytes(block + 4 * kVectorBytes));
        } else {
            return low_bits<j>(block);
        }
    }

    static Scales scales(const uint8_t *super, const uint8_t *block) {
        const uint8_t *own = block + kLayout.quant_bytes();
        if constexpr (kType == GLIMP_Q6_K) {
            const F32 d = load_half(halves(super, 0));
            const auto *factors = reinterpret_cast<const int8_t *>(own);
            return {d * to_float(load_signed(factors)), d * to_float(load_signed(factors + kTileRows)), set(0.0f)};
        } else if constexpr (kType == GLIMP_Q4_K || kType == GLIMP_Q5_K) {
            const F32 scale = load_half(halves(super, 0)) * to_float(load_unsigned(own));
            const F32 min = load_half(halves(super, 1)) * to_float(load_unsigned(own + kTileRows));
            return {scale, scale, set(0.0f) - min};
        } else {
            const F32 scale = load_half(halves(own, 0));
            return {scale, scale, kHasShift ? load_half(halves(own, 1)) : set(0.0f)};
        }
    }

    static int64_t tile_bytes(int64_t k) { return kLayout.tile_bytes(k); }
    static const uint8_t *super_of(const uint8_t *tile, int64_t b) {
        return tile + b / kLayout.num_blocks * kLayout.super_bytes();
    }
    static const uint8_t *block_of(const uint8_t *tile, int64_t b) {
        return super_of(tile, b) + kLayout.header_bytes + b % kLayout.num_blocks * kLayout.block_bytes();
    }
};

// A byte for each quant of a block: 8 vectors.
template <class Format, int j = 0>
inline void unpack_quants(const uint8_t *from, uint8_t *to) {
    store_bytes(to + j * kVectorBytes, Format::template quants<j>(from));
    if constexpr (j + 1 < kVectors) unpack_quants<Format, j + 1>(from, to);
}

// Calls function(Packed<type>()) for the type at hand.
template <class Function>
inline void with_format(int32_t type, Function function) {
    switch (type) {
        case GLIMP_Q4_0: return function(Packed<GLIMP_Q4_0>());
        case GLIMP_Q4_1: return function(Packed<GLIMP_Q4_1>());
        case GLIMP_Q5_0: return function(Packed<GLIMP_Q5_0>());
        case GLIMP_Q5_1: return function(Packed<GLIMP_Q5_1>());
        case GLIMP_Q8_0: return function(Packed<GLIMP_Q8_0>());
        case GLIMP_Q4_K: return function(Packed<GLIMP_Q4_K>());
        case GLIMP_Q5_K: return function(Packed<GLIMP_Q5_K>());
        case GLIMP_Q6_K: return function(Packed<GLIMP_Q6_K>());
        default: return;
    }
}

}  // namespace glimp::GLIMP_PATH
