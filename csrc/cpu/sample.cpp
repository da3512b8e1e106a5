// sample: entropy, log-probability and one token of each logit row. The specification is kernels/sampling.py.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <new>
#include <vector>

#include "../glimp.h"
#include "philox.h"

// The loops over the vocabulary are compiled once for each of these, and the best is chosen when the library loads.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GLIMP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GLIMP_CLONES
#endif

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kLanes = 16;
constexpr int kChunk = 64 * kLanes;  // values added up in float before they go into a double
constexpr int kGroup = 4;  // tokens that share one Philox counter
constexpr int kBlockTokens = kLanes * kGroup;  // tokens of a block: their random words are made together

// exp(x) for x <= 0, to 2 ulp; below -87 it's 0. Without a branch, so that loops of it are vectorised.
inline float exp_nonpositive(float x) {
    const float clamped = std::max(x, -87.0f);
    const float n = std::nearbyint(clamped * 1.44269504f);
    const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;  // coefficients of Cephes' expf
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } scale = {(static_cast<int32_t>(n) + 127) << 23};
    return x < -87.0f ? 0.0f : p * scale.value;
}

// The largest value; NaN if there is any NaN.
GLIMP_CLONES float row_max(const float *x, int64_t n) {
    float lanes[kLanes];
    int bad[kLanes] = {};
    std::fill(lanes, lanes + kLanes, -kInfinity);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int j = 0; j < kLanes; ++j) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
            bad[j] |= x[i + j] != x[i + j];
        }
    for (; i < n; ++i) {
        lanes[0] = std::max(lanes[0], x[i]);
        bad[0] |= x[i] != x[i];
    }
    for (int j = 0; j < kLanes; ++j)
        if (bad[j]) return kNaN;
    return *std::max_element(lanes, lanes + kLanes);
}

struct Mass {
    double total;  // sum of exp(x - max)
    double moment;  // sum of exp(x - max) * (x - max)
};

// What entropy and log-probability are made of. The order of the additions depends on n alone.
GLIMP_CLONES Mass row_mass(const float *x, int64_t n, float max) {
    Mass mass = {0.0, 0.0};
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t end = std::min(n, begin + kChunk);
        float total[kLanes] = {}, moment[kLanes] = {};
        int64_t i = begin;
        for (; i + kLanes <= end; i += kLanes)
            for (int j = 0; j < kLanes; ++j) {
                const float d = std::max(x[i + j] - max, -88.0f);  // exp is 0 there, and 0 * -inf would be NaN
                const float e = exp_nonpositive(d);
                total[j] += e;
                moment[j] += e * d;
            }
        for (; i < end; ++i) {
            const float d = std::max(x[i] - max, -88.0f), e = exp_nonpositive(d);
            total[0] += e;
            moment[0] += e * d;
        }
        for (int j = 0; j < kLanes; ++j) mass.total += total[j], mass.moment += moment[j];
    }
    return mass;
}

// How many values a row's scratch holds: whole blocks.
int64_t padded(int64_t n) { return (n + kBlockTokens - 1) / kBlockTokens * kBlockTokens; }

int64_t first_equal(const float *x, int64_t n, float value) { return std::find(x, x + n, value) - x; }

// z [V] becomes the penalised logits of row r.
int32_t penalize(float *z, int64_t vocab_size, const glimp_sampling &p, int64_t r) {
    for (int32_t s = p.seen_start[r]; s < p.seen_start[r + 1]; ++s) {
        const int64_t id = p.seen_ids[s];
        if (id < 0 || id >= vocab_size) return GLIMP_OUT_OF_RANGE;
        const float count = static_cast<float>(p.seen_counts[s]), repetition = p.repetition_penalty[r];
        z[id] = z[id] > 0 ? z[id] / repetition : z[id] * repetition;
        z[id] = z[id] - p.frequency_penalty[r] * count - p.presence_penalty[r] * (count > 0 ? 1.0f : 0.0f);
    }
    return GLIMP_OK;
}

// The largest of a block's kBlockTokens values.
GLIMP_CLONES float block_max(const float *z) {
    float lanes[kLanes];
    std::copy(z, z + kLanes, lanes);
    for (int i = kLanes; i < kBlockTokens; i += kLanes)
        for (int j = 0; j < kLanes; ++j) lanes[j] = std::max(lanes[j], z[i + j]);
    return *std::max_element(lanes, lanes + kLanes);
}

// The least value that top_p keeps of these candidates, whose mass is `total`; they're reordered.
float top_p_threshold(std::vector<float> &candidates, float max, double total, float top_p) {
    double cumulative = 0.0;
    auto sorted = candidates.begin();
    for (std::ptrdiff_t chunk = 256; sorted != candidates.end(); chunk *= 4) {
        const auto end = candidates.end() - sorted > chunk ? sorted + chunk : candidates.end();
        std::partial_sort(sorted, end, candidates.end(), std::greater<float>());
        for (; sorted != end; ++sorted) {
            cumulative += exp_nonpositive(*sorted - max);
            if (cumulative >= top_p * total) return *sorted;
        }
    }
    return candidates.empty() ? -kInfinity : candidates.back();
}

// The values of z [V], padded with -inf, from `least` on.
std::vector<float> values_from(const float *z, int64_t n, float least) {
    std::vector<float> values;
    for (int64_t begin = 0; begin < n; begin += kBlockTokens) {
        if (block_max(z + begin) < least) continue;
        for (int i = 0; i < kBlockTokens; ++i)
            if (z[begin + i] >= least && z[begin + i] > -kInfinity) values.push_back(z[begin + i]);
    }
    return values;
}

// The least value of z [V] that min_p, top_k and top_p, in this order, leave. All cut by value, so ties stay together.
float filter_threshold(const float *z, int64_t n, float max, const glimp_sampling &p, int64_t r) {
    float threshold = p.min_p[r] > 0 ? max + std::log(p.min_p[r]) : -kInfinity;
    const bool has_top_k = p.top_k[r] > 0 && p.top_k[r] < n, has_top_p = p.top_p[r] < 1;
    if (!has_top_k && !has_top_p) return threshold;
    if (!has_top_k && p.min_p[r] == 0) {
        // all n values below max - d have less mass than n exp(-d): leave aside what top_p cuts off in any case
        const double total = row_mass(z, n, max).total, rest = (1.0 - p.top_p[r]) * total;
        std::vector<float> candidates = values_from(z, n, max - static_cast<float>(std::log(n / rest)) - 0.01f);
        return top_p_threshold(candidates, max, total, p.top_p[r]);
    }
    std::vector<float> candidates = values_from(z, n, threshold);
    if (has_top_k && p.top_k[r] < static_cast<int64_t>(candidates.size())) {
        const auto kth = candidates.begin() + (p.top_k[r] - 1);
        std::nth_element(candidates.begin(), kth, candidates.end(), std::greater<float>());
        threshold = std::max(threshold, *kth);
        const auto below = [threshold](float value) { return value < threshold; };
        candidates.erase(std::remove_if(candidates.begin(), candidates.end(), below), candidates.end());
    }
    if (!has_top_p) return threshold;
    double total = 0.0;
    for (const float value : candidates) total += exp_nonpositive(value - max);
    return std::max(threshold, top_p_threshold(candidates, max, total, p.top_p[r]));
}

// The random words of the tokens from 4 * first_group on: what glimp::philox gives, for all lanes together.
GLIMP_CLONES void block_words(uint32_t first_group, uint32_t position, uint32_t sequence, const uint32_t key[2],
                              uint32_t words[kBlockTokens]) {
    uint32_t c[kGroup][kLanes];
    for (int j = 0; j < kLanes; ++j) c[0][j] = first_group + j, c[1][j] = position, c[2][j] = sequence, c[3][j] = 0;
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < glimp::kPhiloxRounds; ++round) {
        for (int j = 0; j < kLanes; ++j) glimp::philox_round(c[0][j], c[1][j], c[2][j], c[3][j], k0, k1);
        k0 += glimp::kPhiloxStep0, k1 += glimp::kPhiloxStep1;
    }
    for (int j = 0; j < kLanes; ++j)
        for (int g = 0; g < kGroup; ++g) words[kGroup * j + g] = c[g][j];
}

// Which tokens of the block may score above `best`; false if none. A noise is at least the uniform it's made of, so
// z - log(noise) >= best takes uniform <= exp(z - best): one cheap exp, with a margin for its rounding, spares two logs.
GLIMP_CLONES bool may_win(const float *z, const uint32_t *words, float best, uint8_t *winners) {
    uint8_t any = 0;
    for (int i = 0; i < kBlockTokens; ++i) {
        const float bound = exp_nonpositive(std::min(z[i] - best, 0.0f)) * 1.0001f;
        const float uniform = static_cast<float>(words[i]) * 0x1p-32f;
        winners[i] = (z[i] >= best) | (uniform <= bound);
        any |= winners[i];
    }
    return any != 0;
}

// Gumbel-max over the values of z [V], padded with -inf, from the threshold on.
int64_t draw(const float *z, int64_t n, float max, float threshold, const glimp_sampling &p, int64_t r) {
    const uint64_t seed = static_cast<uint64_t>(p.seed[r]);
    const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    float best = -kInfinity;
    int64_t best_id = n;
    uint32_t words[kBlockTokens];
    uint8_t winners[kBlockTokens];
    const auto consider = [&](int64_t block) {
        const float *values = z + kBlockTokens * block;
        const float largest = block_max(values);
        if (largest < threshold || largest == -kInfinity || largest + glimp::kMaxGumbel < best) return;
        block_words(static_cast<uint32_t>(kLanes * block), static_cast<uint32_t>(p.position[r]),
                    static_cast<uint32_t>(p.sequence_index[r]), key, words);
        if (!may_win(values, words, best, winners)) return;
        for (int i = 0; i < kBlockTokens; ++i) {
            if (!winners[i] || values[i] < threshold || values[i] == -kInfinity) continue;
            const int64_t id = kBlockTokens * block + i;
            const float score = values[i] - std::log(glimp::exponential(words[i]));
            if (score > best || (score == best && id < best_id)) best = score, best_id = id;
        }
    };
    consider(first_equal(z, n, max) / kBlockTokens);  // a good bound early spares most of the others their random numbers
    for (int64_t block = 0; kBlockTokens * block < n; ++block) consider(block);
    return best_id;
}

GLIMP_CLONES void divide(float *z, const float *x, int64_t n, float temperature) {
    for (int64_t i = 0; i < n; ++i) z[i] = x[i] / temperature;
}

int32_t choose(const float *x, int64_t n, float max, const glimp_sampling &p, int64_t r, std::vector<float> &scratch,
               int64_t *token) {
    const bool has_seen = p.seen_start[r] != p.seen_start[r + 1];
    if (has_seen) {
        scratch.resize(padded(n));
        std::copy(x, x + n, scratch.data());
        if (const int32_t error = penalize(scratch.data(), n, p, r)) return error;
        x = scratch.data();
        max = row_max(x, n);
    }
    if (p.temperature[r] == 0) {
        *token = first_equal(x, n, max);
        return GLIMP_OK;
    }
    scratch.resize(padded(n));
    divide(scratch.data(), x, n, p.temperature[r]);
    std::fill(scratch.begin() + n, scratch.end(), -kInfinity);
    max = max / p.temperature[r];
    const float threshold = filter_threshold(scratch.data(), n, max, p, r);
    *token = draw(scratch.data(), n, max, threshold, p, r);
    return GLIMP_OK;
}

}  // namespace

extern "C" {

int32_t glimp_abi_version(void) { return GLIMP_ABI_VERSION; }

const char *glimp_error_string(int32_t error) {
    switch (error) {
        case GLIMP_OK: return "no error";
        case GLIMP_NULL_POINTER: return "a pointer is null";
        case GLIMP_BAD_SIZE: return "a size is negative, or the vocabulary is empty, or a stride is too small";
        case GLIMP_OUT_OF_RANGE: return "a seen token id is outside the vocabulary";
        case GLIMP_OUT_OF_MEMORY: return "out of memory";
        default: return "unknown error";
    }
}

int32_t glimp_philox(const uint32_t *counter, const uint32_t *key, uint32_t *words) {
    if (!counter || !key || !words) return GLIMP_NULL_POINTER;
    glimp::philox(counter, key, words);
    return GLIMP_OK;
}

int32_t glimp_sample(const float *logits, int64_t num_rows, int64_t vocab_size, int64_t row_stride,
                     const glimp_sampling *params, const uint8_t *token_class, int64_t *token, float *entropy,
                     float *logprob, uint8_t *out_class) {
    if (num_rows < 0 || vocab_size < 1 || row_stride < vocab_size) return GLIMP_BAD_SIZE;
    if (num_rows == 0) return GLIMP_OK;
    if (!logits || !params || !token_class || !token || !entropy || !logprob || !out_class) return GLIMP_NULL_POINTER;
    try {
        std::vector<float> scratch;
        for (int64_t r = 0; r < num_rows; ++r) {
            const float *x = logits + r * row_stride;
            const float max = row_max(x, vocab_size);
            token[r] = 0;
            entropy[r] = logprob[r] = kNaN;
            if (max == max && max != -kInfinity && max != kInfinity) {
                if (const int32_t e = choose(x, vocab_size, max, *params, r, scratch, &token[r])) return e;
                const Mass mass = row_mass(x, vocab_size, max);
                const double log_total = std::log(mass.total);
                entropy[r] = static_cast<float>(std::max(0.0, log_total - mass.moment / mass.total));
                logprob[r] = static_cast<float>(static_cast<double>(x[token[r]]) - max - log_total);
            }
            out_class[r] = token_class[token[r]];
        }
    } catch (const std::bad_alloc &) {
        return GLIMP_OUT_OF_MEMORY;
    }
    return GLIMP_OK;
}
}
