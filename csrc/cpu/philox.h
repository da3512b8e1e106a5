// Philox4x32-10 and the exponential variates made of it; the same numbers as kernels/philox.py. All static, without
// the standard library's functions: each code path must have its own.
#pragma once

#include <cstdint>

namespace glimp {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxStep0 = 0x9E3779B9u, kPhiloxStep1 = 0xBB67AE85u;

static inline void philox_round(uint32_t &c0, uint32_t &c1, uint32_t &c2, uint32_t &c3, uint32_t k0, uint32_t k1) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
}

// No -log(exponential variate) is larger: the least one is 2^-33.
constexpr float kMaxGumbel = 22.9f;

}  // namespace glimp
