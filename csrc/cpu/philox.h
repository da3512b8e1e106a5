// Philox4x32-10 and the exponential variates made of it; the same numbers as kernels/philox.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace glimp {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxStep0 = 0x9E3779B9u, kPhiloxStep1 = 0xBB67AE85u;

inline void philox_round(uint32_t &c0, uint32_t &c1, uint32_t &c2, uint32_t &c3, uint32_t k0, uint32_t k1) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
}

inline void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
    std::copy(counter, counter + 4, words);
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
        philox_round(words[0], words[1], words[2], words[3], k0, k1);
        k0 += kPhiloxStep0, k1 += kPhiloxStep1;
    }
}

// An exponential variate of a random word; below 2^-8 the series is exact in float32.
inline float exponential(uint32_t word) {
    const double uniform = (static_cast<double>(word) + 0.5) * 0x1p-32;
    const float w = static_cast<float>(std::fmin(uniform, 1.0 - 0x1p-24));
    if (w < 0x1p-8f) return w * (1.0f + w * (0.5f + w * (1.0f / 3.0f + w * 0.25f)));
    return -std::log1p(-w);
}

// No -log(exponential(word)) is larger: the least w is 2^-33.
constexpr float kMaxGumbel = 22.9f;

}  // namespace glimp
