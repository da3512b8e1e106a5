#include "vocabulary.h"

#include "philox.h"
#include "simd.h"

namespace glimp::GLIMP_PATH {

namespace {

constexpr int64_t kChunk = 64 * kLanes;  // values added up in float before they go into a double
constexpr int kGroup = 4;                // tokens that share one Philox counter
constexpr float kInfinity = __builtin_inff();
constexpr float kLowest = -3.40282347e+38f;  // the least above -inf

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// x [n] from i on as a vector, -inf past the end.
F32 load_padded(const float *x, int64_t n, int64_t i) {
    if (i + kLanes <= n) return load(x + i);
    return keep_first(load_first(x + i, n - i), static_cast<int>(n - i), -kInfinity);
}

// Values of one block: where they are, or `padded` where the row ends within it.
const float *block_of(const float *x, int64_t n, int64_t block, float *padded) {
    const int64_t begin = block * kBlockTokens;
    if (begin + kBlockTokens <= n) return x + begin;
    for (int64_t i = 0; i < kBlockTokens; ++i) padded[i] = begin + i < n ? x[begin + i] : -kInfinity;
    return padded;
}

F32 block_max(const float *z) {
    return max(max(load(z), load(z + kLanes)), max(load(z + 2 * kLanes), load(z + 3 * kLanes)));
}

float row_max(const float *x, int64_t n) {
    F32 most = set(-kInfinity), trace = set(0.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
        const F32 v = load_padded(x, n, i);
        most = max(most, v);
        // a NaN as second operand stays one, and stays in the sum; everything else becomes -1 ... 1
        trace = trace + max(set(-1.0f), min(set(1.0f), v));
    }
    const float total = sum(trace);
    return total != total ? total : largest(most);
}

Mass row_mass(const float *x, int64_t n, float max_of_row) {
    const F32 shift = set(max_of_row);
    Mass mass = {0.0, 0.0};
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        F32 total = set(0.0f), moment = set(0.0f);
        for (int64_t i = begin; i < smaller(n, begin + kChunk); i += kLanes) {
            const F32 d = max(load_padded(x, n, i) - shift, set(-88.0f));  // exp is 0 there, and 0 * -inf would be NaN
            const F32 e = exp_nonpositive(d);
            total = total + e;
            moment = fma(e, d, moment);
        }
        float totals[kLanes], moments[kLanes];
        store(totals, total), store(moments, moment);
        for (int j = 0; j < kLanes; ++j) mass.total += totals[j], mass.moment += moments[j];
    }
    return mass;
}

int64_t first_equal(const float *x, int64_t n, float value) {
    for (int64_t i = 0; i < n; i += kLanes) {
        const F32 v = load_padded(x, n, i);
        const uint32_t equal = at_least(v, set(value)) & at_least(set(value), v);
        if (equal) return smaller(n, i + __builtin_ctz(equal));
    }
    return n;
}

void scale(const float *x, int64_t n, float max_of_row, float temperature, float *out) {
    for (int64_t i = 0; i < n; i += kLanes)
        store_first(out + i, (load_first(x + i, n - i) - set(max_of_row)) / set(temperature), n - i);
}

void exponentials(const float *x, int64_t n, float max_of_row, float *out) {
    for (int64_t i = 0; i < n; i += kLanes)
        store_first(out + i, exp_nonpositive(load_first(x + i, n - i) - set(max_of_row)), n - i);
}

void block_maxima(const float *x, int64_t n, float *out) {
    float padded[kBlockTokens];
    for (int64_t block = 0; block * kBlockTokens < n; ++block)
        out[block] = largest(block_max(block_of(x, n, block, padded)));
}

int64_t next_block(const float *x, int64_t n, int64_t block, int64_t end, float least) {
    const F32 bound = max(set(least), set(kLowest));
    float padded[kBlockTokens];
    while (block < end && !at_least(block_max(block_of(x, n, block, padded)), bound)) ++block;
    return block;
}

int64_t values_from(const float *x, int64_t n, float least, float *out) {
    const float bound = least > kLowest ? least : kLowest;
    const int64_t num_blocks = (n + kBlockTokens - 1) / kBlockTokens;
    int64_t count = 0;
    for (int64_t block = 0; (block = next_block(x, n, block, num_blocks, bound)) < num_blocks; ++block)
        for (int64_t i = block * kBlockTokens; i < smaller(n, (block + 1) * kBlockTokens); ++i)
            if (x[i] >= bound) out[count++] = x[i];
    return count;
}

I32 set_word(uint32_t word) { return set(static_cast<int32_t>(word)); }

// What Philox makes of the block's counters, a counter in each lane.
void block_words(int64_t block, const NoiseKey &key, uint32_t *words) {
    int32_t first[kLanes];
    for (int j = 0; j < kLanes; ++j) first[j] = static_cast<int32_t>(block * kLanes + j);
    I32 c[kGroup] = {load(first), set_word(key.position), set_word(key.sequence_index), set_word(0)};
    uint32_t k0 = key.seed[0], k1 = key.seed[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const Product a = multiply(c[0], kPhiloxMultiplier0), b = multiply(c[2], kPhiloxMultiplier1);
        c[0] = b.high ^ c[1] ^ set_word(k0), c[1] = b.low;
        c[2] = a.high ^ c[3] ^ set_word(k1), c[3] = a.low;
        k0 += kPhiloxStep0, k1 += kPhiloxStep1;
    }
    int32_t lanes[kGroup][kLanes];
    for (int g = 0; g < kGroup; ++g) store(lanes[g], c[g]);
    for (int j = 0; j < kLanes; ++j)
        for (int g = 0; g < kGroup; ++g) words[kGroup * j + g] = static_cast<uint32_t>(lanes[g][j]);
}

// A noise is at least the uniform it's made of, so z - log(noise) >= best takes uniform <= exp(z - best): one cheap
// exp, with a margin for its rounding, spares two logs.
uint64_t may_win(const float *x, int64_t n, int64_t block, const NoiseKey &key, float best, uint32_t *words) {
    float padded[kBlockTokens];
    const float *z = block_of(x, n, block, padded);
    block_words(block, key, words);
    uint64_t winners = 0;
    for (int i = 0; i < kBlockTokens; i += kLanes) {
        int32_t lanes[kLanes];
        std::memcpy(lanes, words + i, sizeof lanes);
        const F32 uniform = to_float(shift_right<1>(load(lanes))) * set(0x1p-31f);
        const F32 bound = exp_nonpositive(min(load(z + i) - set(best), set(0.0f))) * set(1.0001f);
        const uint64_t wins = at_least(load(z + i), set(best)) | at_least(bound, uniform);
        winners |= wins << i;
    }
    return winners;
}

}  // namespace

extern const VocabularyKernels kVocabulary = {row_max,      row_mass,    first_equal, scale, exponentials,
                                              block_maxima, values_from, next_block,  may_win};

}  // namespace glimp::GLIMP_PATH
