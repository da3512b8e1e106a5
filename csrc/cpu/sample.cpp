// sample: entropy, log-probability and one token of each logit row. The specification is kernels/sampling.py.
//
// A row is taken in parts of kPart values. Sums of parts are added in their order, and a token's score depends on
// nothing else, so neither the number of threads nor the other rows can change a result.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "ops.h"
#include "philox.h"

namespace glimp {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kPart = 256 * kBlockTokens;  // a few microseconds
constexpr int64_t kWeightsAtOnce = 256;
constexpr std::ptrdiff_t kSortedAtOnce = 256;

int64_t num_parts(int64_t n) { return (n + kPart - 1) / kPart; }
int64_t num_blocks(int64_t n) { return (n + kBlockTokens - 1) / kBlockTokens; }

struct Draw {
    float score;
    int64_t token;
};

bool is_better(const Draw &a, const Draw &b) {
    return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// What the threads find out about a part of a row.
struct Part {
    float max;
    Mass mass;
    int64_t num_candidates;
    Draw draw;
};

// The memory that one row needs.
struct Room {
    Part *parts;
    float *scaled;      // [V]
    float *candidates;  // [V]
};

int64_t room_bytes(int64_t vocab_size) {
    const int64_t padded = num_blocks(vocab_size) * kBlockTokens * static_cast<int64_t>(sizeof(float));
    return 2 * padded + (num_parts(vocab_size) * static_cast<int64_t>(sizeof(Part)) + 63) / 64 * 64;
}

Room make_room(char *memory, int64_t vocab_size) {
    const int64_t padded = num_blocks(vocab_size) * kBlockTokens;
    auto *floats = reinterpret_cast<float *>(memory);
    return {reinterpret_cast<Part *>(floats + 2 * padded), floats, floats + padded};
}

// An exponential variate of a random word; below 2^-8 the series is exact in float32.
float exponential(uint32_t word) {
    const double uniform = (static_cast<double>(word) + 0.5) * 0x1p-32;
    const float w = static_cast<float>(std::min(uniform, 1.0 - 0x1p-24));
    if (w < 0x1p-8f) return w * (1.0f + w * (0.5f + w * (1.0f / 3.0f + w * 0.25f)));
    return -std::log1p(-w);
}

// One row: x [n] are its raw logits, z what becomes of them.
class RowSampler {
  public:
    RowSampler(glimp_cpu &cpu, const glimp_sampling &params, const float *x, int64_t n, int64_t r, bool is_alone,
               const Room &room)
        : cpu_(cpu), kernels_(cpu.kernels.vocabulary), p_(params), x_(x), n_(n), r_(r), is_alone_(is_alone),
          room_(room) {}

    void sample(int64_t *token, float *entropy, float *logprob) {
        *token = 0;
        *entropy = *logprob = kNaN;
        const float max = max_of(x_);
        if (!std::isfinite(max)) return;
        const Mass mass = mass_of(x_, max);
        const double log_total = std::log(mass.total);
        *entropy = static_cast<float>(std::max(0.0, log_total - mass.moment / mass.total));
        const int64_t chosen = choose(max, mass.total);
        if (chosen == n_) return;
        *token = chosen;
        *logprob = static_cast<float>(static_cast<double>(x_[*token]) - max - log_total);
    }

  private:
    // Calls task(part, begin, size) for all parts of the row: on all threads if no other row is being sampled.
    template <class Task>
    void for_each_part(Task &&task) {
        const auto one = [&](int64_t i) { task(room_.parts[i], i * kPart, std::min(kPart, n_ - i * kPart)); };
        if (is_alone_) return cpu_.threads.run(num_parts(n_), [&](int64_t i, int) { one(i); });
        for (int64_t i = 0; i < num_parts(n_); ++i) one(i);
    }

    // The largest of z [V], NaN if there is any NaN.
    float max_of(const float *z) {
        for_each_part([&](Part &part, int64_t begin, int64_t size) { part.max = kernels_.row_max(z + begin, size); });
        float max = -kInfinity;
        for (int64_t i = 0; i < num_parts(n_) && !std::isnan(max); ++i)
            max = room_.parts[i].max <= max ? max : room_.parts[i].max;
        return max;
    }

    // The first token whose value is `max`, which max_of(z) has just given.
    int64_t first_of(const float *z, float max) {
        int64_t i = 0;
        while (room_.parts[i].max != max) ++i;
        return i * kPart + kernels_.first_equal(z + i * kPart, std::min(kPart, n_ - i * kPart), max);
    }

    Mass mass_of(const float *z, float max) {
        for_each_part([&](Part &part, int64_t begin, int64_t size) {
            part.mass = kernels_.row_mass(z + begin, size, max);
        });
        Mass mass = {0.0, 0.0};
        for (int64_t i = 0; i < num_parts(n_); ++i)
            mass.total += room_.parts[i].mass.total, mass.moment += room_.parts[i].mass.moment;
        return mass;
    }

    bool has_biases() const { return p_.bias_start[r_] != p_.bias_start[r_ + 1]; }
    bool has_penalties() const { return p_.seen_start[r_] != p_.seen_start[r_ + 1]; }

    // -inf wherever the mask has a 0.
    void mask(float *z) {
        const uint32_t *words = p_.token_mask + r_ * ((n_ + 31) / 32);
        for_each_part([&](Part &, int64_t begin, int64_t size) {  // which begins with a word
            for (int64_t i = begin; i < begin + size; i += 32)
                for (int64_t j = i, end = std::min(i + 32, begin + size); j < end && ~words[i / 32]; ++j)
                    if (!(words[i / 32] >> (j - i) & 1)) z[j] = -kInfinity;
        });
    }

    // The logits with biases, mask and penalties.
    void adjust(float *z) {
        if (has_biases() && p_.listed_only[r_])
            std::fill(z, z + n_, -kInfinity);
        else
            std::copy(x_, x_ + n_, z);
        for (int32_t b = p_.bias_start[r_]; b < p_.bias_start[r_ + 1]; ++b) {
            const float raw = x_[p_.bias_ids[b]], bias = p_.bias_values[b];
            const bool is_banned = raw == -kInfinity || bias == -kInfinity;
            z[p_.bias_ids[b]] = is_banned ? -kInfinity : std::max(-kLargest, std::min(kLargest, raw + bias));
        }
        if (p_.token_mask) mask(z);
        for (int32_t s = p_.seen_start[r_]; s < p_.seen_start[r_ + 1]; ++s) {
            float &value = z[p_.seen_ids[s]];
            if (value == -kInfinity) continue;  // whatever is taken off it
            const float count = static_cast<float>(p_.seen_counts[s]), repetition = p_.repetition_penalty[r_];
            value = value > 0 ? value / repetition : value * repetition;
            value = value - p_.frequency_penalty[r_] * count - p_.presence_penalty[r_] * (count > 0 ? 1.0f : 0.0f);
            value = std::max(-kLargest, std::min(kLargest, value));  // what is penalised stays a number
        }
    }

    // The row's token; n if all are banned. raw_total: the mass of the raw logits
    int64_t choose(float max, double raw_total) {
        const float *z = x_;
        if (has_biases() || has_penalties() || p_.token_mask) {
            adjust(room_.scaled);
            z = room_.scaled;
            max = max_of(z);
            if (max == -kInfinity) return n_;
        }
        const int64_t likeliest = first_of(z, max);
        const float temperature = p_.temperature[r_];
        if (temperature == 0) return likeliest;
        if (temperature != 1) {
            for_each_part([&](Part &, int64_t begin, int64_t size) {
                kernels_.scale(z + begin, size, max, temperature, room_.scaled + begin);
            });
            z = room_.scaled;
            max = 0.0f;
        }
        return draw(z, likeliest, filter_threshold(z, max, raw_total));
    }

    // The values of z [V] from `least` on become the candidates; how many there are.
    int64_t collect(const float *z, float least) {
        for_each_part([&](Part &part, int64_t begin, int64_t size) {
            part.num_candidates = kernels_.values_from(z + begin, size, least, room_.candidates + begin);
        });
        int64_t count = room_.parts[0].num_candidates;
        for (int64_t i = 1; i < num_parts(n_); ++i) {
            const float *found = room_.candidates + i * kPart;
            std::copy(found, found + room_.parts[i].num_candidates, room_.candidates + count);
            count += room_.parts[i].num_candidates;
        }
        return count;
    }

    // Adds exp(x - max) of x [count], one by one; stops where the sum reaches `enough`, and says how many it added.
    int64_t add_weights(const float *x, int64_t count, float max, double enough, double *total) {
        float weights[kWeightsAtOnce];
        for (int64_t begin = 0; begin < count; begin += kWeightsAtOnce) {
            const int64_t size = std::min(kWeightsAtOnce, count - begin);
            kernels_.exponentials(x + begin, size, max, weights);
            for (int64_t i = 0; i < size; ++i) {
                *total += weights[i];
                if (*total >= enough) return begin + i + 1;
            }
        }
        return count;
    }

    // The least value that top_p keeps of the candidates [count], whose mass is `total`; they're reordered. Halves them
    // as long as they're many: sorting all would take longer.
    float top_p_threshold(int64_t count, float max, double total) {
        double above = 0.0;  // the mass of the candidates before `begin`, none of which is smaller than one after it
        const double enough = p_.top_p[r_] * total;
        float *begin = room_.candidates, *end = begin + count;
        while (end - begin > kSortedAtOnce) {
            float *middle = begin + (end - begin) / 2;
            std::nth_element(begin, middle, end, std::greater<float>());
            double mass = above;
            add_weights(begin, middle - begin, max, kInfinity, &mass);
            if (mass >= enough) {
                end = middle;
            } else {
                begin = middle, above = mass;
            }
        }
        std::sort(begin, end, std::greater<float>());
        const int64_t num_kept = add_weights(begin, end - begin, max, enough, &above);
        return num_kept == 0 ? -kInfinity : begin[num_kept - 1];
    }

    // The k-th largest of the blocks' largest values: at least k values are no smaller.
    float kth_block_max(const float *z, int64_t k) {
        float *maxima = room_.candidates;
        for_each_part([&](Part &, int64_t begin, int64_t size) {
            kernels_.block_maxima(z + begin, size, maxima + begin / kBlockTokens);
        });
        std::nth_element(maxima, maxima + (k - 1), maxima + num_blocks(n_), std::greater<float>());
        return maxima[k - 1];
    }

    // The least value of z [V] that min_p, top_k and top_p, in this order, leave. All cut by value, so ties stay
    // together.
    float filter_threshold(const float *z, float max, double raw_total) {
        const int64_t top_k = p_.top_k[r_];
        const float min_p = p_.min_p[r_], top_p = p_.top_p[r_];
        float threshold = min_p > 0 ? max + std::log(min_p) : -kInfinity;
        const bool has_top_k = top_k > 0 && top_k < n_, has_top_p = top_p < 1;
        if (!has_top_k && !has_top_p) return threshold;
        if (!has_top_k && min_p == 0) {
            // all n values below max - d have less mass than n exp(-d): leave aside what top_p cuts off in any case
            const double total = z == x_ ? raw_total : mass_of(z, max).total, rest = (1.0 - top_p) * total;
            const float least = max - static_cast<float>(std::log(static_cast<double>(n_) / rest)) - 0.01f;
            return top_p_threshold(collect(z, least), max, total);
        }
        const bool has_bound = has_top_k && top_k <= num_blocks(n_);
        int64_t count = collect(z, has_bound ? std::max(threshold, kth_block_max(z, top_k)) : threshold);
        float *candidates = room_.candidates;
        if (has_top_k && top_k <= count) {
            std::nth_element(candidates, candidates + (top_k - 1), candidates + count, std::greater<float>());
            threshold = std::max(threshold, candidates[top_k - 1]);
            const auto is_below = [threshold](float value) { return value < threshold; };
            count = std::remove_if(candidates, candidates + count, is_below) - candidates;
        }
        if (!has_top_p) return threshold;
        double total = 0.0;
        add_weights(candidates, count, max, kInfinity, &total);
        return std::max(threshold, top_p_threshold(count, max, total));
    }

    // The best of `best` and the draws of the block's values from the threshold on.
    Draw draw_block(const float *z, int64_t block, float threshold, const NoiseKey &key, Draw best) const {
        uint32_t words[kBlockTokens];
        uint64_t winners = kernels_.may_win(z, n_, block, key, best.score, words);
        for (; winners; winners &= winners - 1) {
            const int i = __builtin_ctzll(winners);
            const int64_t token = block * kBlockTokens + i;
            if (token >= n_ || z[token] < threshold || z[token] == -kInfinity) continue;
            const Draw found = {z[token] - std::log(exponential(words[i])), token};
            if (is_better(found, best)) best = found;
        }
        return best;
    }

    // Gumbel-max over the values of z [V] from the threshold on.
    int64_t draw(const float *z, int64_t likeliest, float threshold) {
        const uint64_t seed = static_cast<uint64_t>(p_.seed[r_]);
        const NoiseKey key = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
                              static_cast<uint32_t>(p_.position[r_]),
                              static_cast<uint32_t>(p_.sequence_index[r_])};
        // a good bound early spares most blocks their random numbers
        const Draw early = draw_block(z, likeliest / kBlockTokens, threshold, key, {-kInfinity, n_});
        for_each_part([&](Part &part, int64_t begin, int64_t size) {
            part.draw = early;
            const int64_t end = num_blocks(begin + size);
            for (int64_t block = begin / kBlockTokens; block < end; ++block) {
                const float least = std::max(threshold, part.draw.score - kMaxGumbel);
                block = kernels_.next_block(z, n_, block, end, least);
                if (block < end) part.draw = draw_block(z, block, threshold, key, part.draw);
            }
        });
        Draw best = early;
        for (int64_t i = 0; i < num_parts(n_); ++i)
            if (is_better(room_.parts[i].draw, best)) best = room_.parts[i].draw;
        return best.token;
    }

    glimp_cpu &cpu_;
    const VocabularyKernels &kernels_;
    const glimp_sampling &p_;
    const float *const x_;
    const int64_t n_, r_;
    const bool is_alone_;
    const Room room_;
};

bool is_within(float value, float low, float high) { return value >= low && value <= high; }  // no NaN is

// Row r's list of tokens is start[r] : start[r + 1] of ids and values.
int32_t check_lists(const int32_t *start, const int64_t *ids, const void *values, int64_t num_rows,
                    int64_t vocab_size) {
    for (int64_t r = 0; r < num_rows; ++r)
        if (start[r] < 0 || start[r + 1] < start[r] || start[r + 1] - start[r] > vocab_size)  // its ids are distinct
            return GLIMP_BAD_SIZE;
    if (start[num_rows] > start[0] && (!ids || !values)) return GLIMP_NULL_POINTER;
    for (int32_t i = start[0]; i < start[num_rows]; ++i)
        if (ids[i] < 0 || ids[i] >= vocab_size) return GLIMP_OUT_OF_RANGE;
    return GLIMP_OK;
}

int32_t check_sampling(const glimp_sampling &p, int64_t num_rows, int64_t vocab_size) {
    const void *columns[] = {p.temperature,      p.top_k,             p.top_p, p.min_p,          p.repetition_penalty,
                             p.presence_penalty, p.frequency_penalty, p.seed,  p.sequence_index, p.position,
                             p.seen_start,       p.bias_start,        p.listed_only};
    for (const void *column : columns)
        if (!column) return GLIMP_NULL_POINTER;
    for (int64_t r = 0; r < num_rows; ++r) {
        const bool is_good = is_within(p.temperature[r], 0.0f, kLargest) && is_within(p.top_p[r], 0.0f, 1.0f) &&
                             is_within(p.min_p[r], 0.0f, 1.0f) && is_within(p.repetition_penalty[r], 0.0f, kLargest) &&
                             p.repetition_penalty[r] > 0.0f && is_within(p.presence_penalty[r], -kLargest, kLargest) &&
                             is_within(p.frequency_penalty[r], -kLargest, kLargest);
        if (!is_good) return GLIMP_BAD_VALUE;
    }
    if (const int32_t error = check_lists(p.seen_start, p.seen_ids, p.seen_counts, num_rows, vocab_size)) return error;
    if (const int32_t error = check_lists(p.bias_start, p.bias_ids, p.bias_values, num_rows, vocab_size)) return error;
    for (int32_t b = p.bias_start[0]; b < p.bias_start[num_rows]; ++b)
        if (!is_within(p.bias_values[b], -kInfinity, kLargest)) return GLIMP_BAD_VALUE;
    return GLIMP_OK;
}

}  // namespace

}  // namespace glimp

extern "C" {

int32_t glimp_philox(const uint32_t *counter, const uint32_t *key, uint32_t *words) {
    if (!counter || !key || !words) return GLIMP_NULL_POINTER;
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < glimp::kPhiloxRounds; ++round) {
        const uint64_t a = uint64_t{glimp::kPhiloxMultiplier0} * c0, b = uint64_t{glimp::kPhiloxMultiplier1} * c2;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0, c1 = static_cast<uint32_t>(b);
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1, c3 = static_cast<uint32_t>(a);
        k0 += glimp::kPhiloxStep0, k1 += glimp::kPhiloxStep1;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
    return GLIMP_OK;
}

int32_t glimp_sample(glimp_cpu *cpu, const float *logits, int64_t num_rows, int64_t vocab_size, int64_t row_stride,
                     const glimp_sampling *params, const uint8_t *token_class, int64_t *token, float *entropy,
                     float *logprob, uint8_t *out_class) {
    if (!cpu) return GLIMP_NULL_POINTER;
    if (vocab_size < 1 || row_stride < vocab_size) return GLIMP_BAD_SIZE;
    if (const int32_t error = glimp::check_sizes({num_rows, row_stride}, 0)) return error;
    if (const int32_t error = glimp::check_sizes({vocab_size, 16, cpu->threads.num_threads()}, 1)) return error;
    if (num_rows == 0) return GLIMP_OK;
    if (!logits || !params || !token_class || !token || !entropy || !logprob || !out_class) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_sampling(*params, num_rows, vocab_size)) return error;
    return glimp::run_alone(*cpu, [&] {
        const int64_t num_threads = cpu->threads.num_threads(), bytes = glimp::room_bytes(vocab_size);
        const bool is_alone = num_rows < num_threads;  // whether all threads work on one row
        auto *memory = static_cast<char *>(cpu->sampling.reserve(bytes * (is_alone ? 1 : num_threads)));
        const auto sample_row = [&](int64_t r, int thread) {
            const glimp::Room room = glimp::make_room(memory + thread * bytes, vocab_size);
            glimp::RowSampler row(*cpu, *params, logits + r * row_stride, vocab_size, r, is_alone, room);
            row.sample(token + r, entropy + r, logprob + r);
            out_class[r] = token_class[token[r]];
        };
        if (!is_alone) cpu->threads.run(num_rows, [&](int64_t r, int thread) { sample_row(r, thread); });
        for (int64_t r = 0; is_alone && r < num_rows; ++r) sample_row(r, 0);
        return GLIMP_OK;
    });
}
}
