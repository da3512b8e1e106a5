// simd.h for one code path. Any processor: a vector is an array, and the compiler makes of it what it can.
#pragma once

#include <cstdint>
#include <cstring>

namespace glimp::GLIMP_PATH {

constexpr int kLanes = 16;

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
inline void sum_four(const F32 &a, const F32 &b, const F32 &c, const F32 &d, float (&sums)[4]) {
    sums[0] = sum(a), sums[1] = sum(b), sums[2] = sum(c), sums[3] = sum(d);
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

constexpr int kParts = 1;
using F32Part = F32;
using I32Part = I32;
using U8Part = U8;
template <int kPart, class V>
inline const V &part(const V &a) { return a; }
inline I32 add(const I32 &a, const I32 &b) { return a + b; }
inline F32 join(const F32Part (&parts)[kParts]) { return parts[0]; }

inline void minus_sums_of(const int8_t *q, int32_t (&sums)[3]) {
    int32_t halves[2] = {};
    for (int i = 0; i < 32; ++i) halves[i / 16] += q[i];
    sums[0] = -(halves[0] + halves[1]), sums[1] = -32 * halves[0], sums[2] = -32 * halves[1];
}

template <int kBits, int kOffset>
struct Products {
    static constexpr int kDigits = 1;
    using Sum = I32;

    template <int kDigit>
    static U8 digit(const U8 &quants) { return quants; }
    template <int kDigit>
    static Sum begin(int32_t minus_sums) { return set(kBits == 6 ? minus_sums : kOffset * minus_sums); }
    static Sum add(const Sum &sum, const U8 &digits, const U8 &x) {
        return each_lane<I32>([&](int i) {
            int32_t total = sum.v[i];
            for (int j = 4 * i; j < 4 * i + 4; ++j) total += digits.v[j] * static_cast<int8_t>(x.v[j]);
            return total;
        });
    }
    template <int kDigit>
    static I32 end(const Sum &sum, int32_t) { return sum; }
};

}  // namespace glimp::GLIMP_PATH
