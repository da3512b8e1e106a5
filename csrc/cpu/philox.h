// Philox4x32-10 (Salmon et al., SC 2011): its numbers, and what they mean for the noise; as in kernels/philox.py.
#pragma once

#include <cstdint>

namespace glimp {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxStep0 = 0x9E3779B9u, kPhiloxStep1 = 0xBB67AE85u;

// No -log(exponential variate) is larger: the least one is 2^-33.
constexpr float kMaxGumbel = 22.9f;

}  // namespace glimp
