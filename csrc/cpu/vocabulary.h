// The loops of `sample` that run over a row of logits, or a part of one.
#pragma once

#include <cstdint>

namespace glimp {

// Tokens whose random numbers are made together. A row that isn't a whole number of blocks ends with a shorter one.
constexpr int64_t kBlockTokens = 64;

// What entropy and log-probability are made of, for d = x - max.
struct Mass {
    double total;   // sum of exp(d)
    double moment;  // sum of exp(d) * d
};

// What the random numbers of a row depend on.
struct NoiseKey {
    uint32_t seed[2];
    uint32_t position;
    uint32_t sequence_index;
};

struct VocabularyKernels {
    // the largest of x [n]; NaN if there is any NaN
    float (*row_max)(const float *x, int64_t n);
    // the order of the additions depends on n alone
    Mass (*row_mass)(const float *x, int64_t n, float max);
    // the index of the first that equals `value`, or n
    int64_t (*first_equal)(const float *x, int64_t n, float value);
    // out [n] = (x - max) / temperature, x at most max; out may be x
    void (*scale)(const float *x, int64_t n, float max, float temperature, float *out);
    // out [n] = exp(x - max), x at most max
    void (*exponentials)(const float *x, int64_t n, float max, float *out);
    // the largest of each block: out [number of blocks]
    void (*block_maxima)(const float *x, int64_t n, float *out);
    // the values of x [n] that are at least `least` and above -inf, in order; how many
    int64_t (*values_from)(const float *x, int64_t n, float least, float *out);
    // the first block from `block` on, before `end`, with such a value; or `end`
    int64_t (*next_block)(const float *x, int64_t n, int64_t block, int64_t end, float least);
    // the block's random words, and a bit for each token whose value minus log(noise) may be at least `best`
    uint64_t (*may_win)(const float *x, int64_t n, int64_t block, const NoiseKey &key, float best, uint32_t *words);
};

}  // namespace glimp
