#include "attention.h"

#include "simd.h"

namespace glimp::GLIMP_PATH {

namespace {

// Query vectors of a tile, and vectors of keys or of dims that are summed up in registers at a time.
#if defined(__AVX512F__)
constexpr int kMaxQueries = 14, kVectors = 2;  // 28 of 32 registers
#elif defined(__AVX2__)
constexpr int kMaxQueries = 6, kVectors = 1;  // 12 of 16 registers, two a vector
#else
constexpr int kMaxQueries = 4, kVectors = 1;
#endif
constexpr int64_t kDims = 128;                      // of queries and keys that are multiplied in one go
constexpr int64_t kQueryStride = kDims + kLanes;    // not powers of two: rows would share a cache set
constexpr int64_t kWeightStride = kSplit + kLanes;
constexpr float kNegativeInfinity = -__builtin_inff();

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

F32 widen(const float *p) { return load(p); }
F32 widen(const uint16_t *p) { return load_half(p); }

// What `attend` works in; all of it belongs to one thread.
struct Work {
    float *queries;  // [D / kDims, num_queries, kQueryStride], scaled
    float *weights;  // [num_queries, kWeightStride]: scores, then weights
    float *next;     // records
    float *keys;     // [kVectors, D, kLanes], where pages don't hold whole vectors
    float *values;   // [kSplit, padded D], where rows of values don't
};

int64_t query_floats(int64_t head_dim) { return (head_dim + kDims - 1) / kDims * kMaxQueries * kQueryStride; }

int64_t work_floats(int64_t head_dim) {
    return query_floats(head_dim) + kMaxQueries * kWeightStride + record_floats(head_dim, kMaxQueries) +
           kVectors * kLanes * head_dim + kSplit * padded_dim(head_dim);
}

Work carve(float *memory, int64_t head_dim) {
    Work work;
    work.queries = memory;
    work.weights = work.queries + query_floats(head_dim);
    work.next = work.weights + kMaxQueries * kWeightStride;
    work.keys = work.next + record_floats(head_dim, kMaxQueries);
    work.values = work.keys + kVectors * kLanes * head_dim;
    return work;
}

// How many keys, from position 0 on, vector j of the tile's sequence sees.
int64_t num_visible(const AttentionShape &shape, const AttentionTile &tile, int64_t j) {
    return tile.position + (tile.first + j) / shape.group + 1;
}

// Where one KV head's keys [D, S] or values [S, D] start in a page.
template <class Element>
const Element *page_of(const void *pages, const AttentionShape &shape, const AttentionTile &tile, int64_t position) {
    const int64_t page = tile.pages[position / shape.kv.page_size];
    return static_cast<const Element *>(pages) +
           (page * shape.num_kv_heads + tile.kv_head) * shape.head_dim * shape.kv.page_size;
}

// What is asked for while a vector of keys is scored: the vector that comes after it, and the values of its own keys.
template <class Element>
struct Fetch {
    const Element *keys, *values;
};

// scores [M, kWeightStride] of N vectors of keys, each [D, kLanes] with rows `stride` apart. One key stays in one lane.
template <int M, int N, class Element>
void score(const float *queries, const Element *const *keys, const Fetch<Element> *fetch, int64_t stride,
           int64_t head_dim, float *scores) {
    for (int64_t begin = 0; begin < head_dim; begin += kDims) {
        F32 total[M][N];
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) total[m][n] = set(0.0f);
        for (int64_t d = begin; d < smaller(head_dim, begin + kDims); ++d) {
            const float *at = queries + begin * M * kQueryStride / kDims + (d - begin);
            F32 key[N];
            for (int n = 0; n < N; ++n) {
                key[n] = widen(keys[n] + d * stride);
                __builtin_prefetch(fetch[n].keys + d * stride);
                __builtin_prefetch(fetch[n].values + d * kLanes);
            }
            for (int m = 0; m < M; ++m) {
                const F32 x = set(at[m * kQueryStride]);
                for (int n = 0; n < N; ++n) total[m][n] = fma(x, key[n], total[m][n]);
            }
        }
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) {
                float *at = scores + m * kWeightStride + n * kLanes;
                store(at, begin == 0 ? total[m][n] : load(at) + total[m][n]);
            }
    }
}

// Sixteen keys from `position` on, those before `end`, put together to [D, kLanes].
template <class Element>
void gather_keys(const AttentionShape &shape, const AttentionTile &tile, int64_t position, int64_t end, float *out) {
    const int64_t page_size = shape.kv.page_size;
    const Element *lane[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        const int64_t key = smaller(position + i, end - 1);
        lane[i] = page_of<Element>(shape.kv.keys, shape, tile, key) + key % page_size;
    }
    for (int64_t d = 0; d < shape.head_dim; ++d) {
        Element row[kLanes];
        for (int i = 0; i < kLanes; ++i) row[i] = lane[i][d * page_size];
        store(out + d * kLanes, widen(row));
    }
}

// The first tile brings keys and values from memory, the sequence's others find them in the cache.
template <class Element>
Fetch<Element> next_of(const AttentionShape &shape, const AttentionTile &tile, int64_t position, int64_t distance,
                       const Element *keys) {
    if (tile.first > 0) return {keys, keys};
    const int64_t page_size = shape.kv.page_size, next = position + distance;
    const Element *values = page_of<Element>(shape.kv.values, shape, tile, position);
    if (next < num_visible(shape, tile, 0))
        keys = page_of<Element>(shape.kv.keys, shape, tile, next) + next % page_size;
    return {keys, values + position % page_size * shape.head_dim};
}

// Scores of N vectors of keys; the first key stands at `begin`, `end` is the split's end.
template <int M, int N, class Element>
void score_vectors(const AttentionShape &shape, const AttentionTile &tile, int64_t begin, int64_t end, const Work &work,
                   float *scores) {
    if (shape.kv.page_size % kLanes == 0) {
        const Element *keys[N];
        Fetch<Element> fetch[N];
        for (int n = 0; n < N; ++n) {
            const int64_t position = begin + n * kLanes;
            keys[n] = page_of<Element>(shape.kv.keys, shape, tile, position) + position % shape.kv.page_size;
            fetch[n] = next_of(shape, tile, position, kVectors * kLanes, keys[n]);
        }
        score<M, N>(work.queries, keys, fetch, shape.kv.page_size, shape.head_dim, scores);
    } else {
        const float *keys[N];
        Fetch<float> fetch[N];
        for (int n = 0; n < N; ++n) {
            float *gathered = work.keys + n * kLanes * shape.head_dim;
            gather_keys<Element>(shape, tile, begin + n * kLanes, end, gathered);
            keys[n] = gathered, fetch[n] = {gathered, gathered};
        }
        score<M, N>(work.queries, keys, fetch, kLanes, shape.head_dim, scores);
    }
}

// Scores [num_keys] become exp(score - largest); their sum, and the largest.
void softmax(float *scores, int64_t num_keys, float *largest_score, float *total) {
    const int64_t last = (num_keys - 1) / kLanes * kLanes;
    store(scores + last, keep_first(load(scores + last), static_cast<int>(num_keys - last), kNegativeInfinity));
    F32 most = load(scores);
    for (int64_t i = kLanes; i <= last; i += kLanes) most = max(most, load(scores + i));
    *largest_score = largest(most);
    const F32 shift = set(*largest_score);
    F32 sums = set(0.0f);
    for (int64_t i = 0; i <= last; i += kLanes) {
        const F32 weight = exp_nonpositive(load(scores + i) - shift);
        store(scores + i, weight);
        sums = sums + weight;
    }
    *total = sum(sums);
}

// Rows of values that are next to each other.
template <class Element>
struct Run {
    const Element *values;
    int64_t num_keys;
};

// Adds weights [Some, kWeightStride] times 16 N dims of the runs' values to the sums of some of the tile's M queries,
// key by key. Without the pragmas GCC 12 keeps a second copy of the sums on the stack.
template <int M, int Some, int N, class Element>
void add_block(const float *weights, const Run<Element> *runs, int64_t num_runs, int64_t stride, int64_t d,
               float *sums) {
    F32 total[Some][N];
#pragma GCC unroll 16
    for (int m = 0; m < Some; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) total[m][n] = load(sums + (n * M + m) * kLanes);
    for (const Run<Element> *run = runs; run < runs + num_runs; ++run) {
        const Element *values = run->values + d;
        for (const float *end = weights + run->num_keys; weights < end; ++weights, values += stride) {
            F32 value[N];
            for (int n = 0; n < N; ++n) value[n] = widen(values + n * kLanes);
#pragma GCC unroll 16
            for (int m = 0; m < Some; ++m) {
                const F32 weight = set(weights[m * kWeightStride]);
                for (int n = 0; n < N; ++n) total[m][n] = fma(weight, value[n], total[m][n]);
            }
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < Some; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) store(sums + (n * M + m) * kLanes, total[m][n]);
}

template <int M, int Some, class Element>
void add_values(const float *weights, const Run<Element> *runs, int64_t num_runs, int64_t num_dims, float *sums) {
    int64_t d = 0;
    for (; d + kVectors * kLanes <= num_dims; d += kVectors * kLanes)
        add_block<M, Some, kVectors>(weights, runs, num_runs, num_dims, d, sums + d * M);
    for (; d < num_dims; d += kLanes) add_block<M, Some, 1>(weights, runs, num_runs, num_dims, d, sums + d * M);
}

// The values of the keys begin ... end - 1 of a split: one run for each page. At most kSplit + 1 of them.
template <class Element>
int64_t find_runs(const AttentionShape &shape, const AttentionTile &tile, int64_t begin, int64_t end,
                  Run<Element> *runs) {
    int64_t num_runs = 0;
    while (begin < end) {
        const int64_t offset = begin % shape.kv.page_size;
        const int64_t num_keys = smaller(end - begin, shape.kv.page_size - offset);
        runs[num_runs++] = {page_of<Element>(shape.kv.values, shape, tile, begin) + offset * shape.head_dim, num_keys};
        begin += num_keys;
    }
    return num_runs;
}

// Adds the values of the keys begin ... end - 1; weights [Some, kWeightStride] start at key `begin`.
template <int M, int Some, class Element>
void add_keys(const AttentionShape &shape, const AttentionTile &tile, int64_t begin, int64_t end, const float *weights,
              const Work &work, float *sums) {
    if (begin >= end) return;
    const int64_t head_dim = shape.head_dim, padded = padded_dim(head_dim);
    Run<Element> runs[kSplit + 1];
    const int64_t num_runs = find_runs(shape, tile, begin, end, runs);
    if (head_dim == padded) return add_values<M, Some>(weights, runs, num_runs, padded, sums);
    // the last vector of a row would reach past the row
    float *to = work.values;
    Element row[kLanes] = {};
    for (int64_t run = 0; run < num_runs; ++run)
        for (int64_t key = 0; key < runs[run].num_keys; ++key, to += padded)
            for (int64_t d = 0; d < head_dim; d += kLanes) {
                const Element *from = runs[run].values + key * head_dim + d;
                std::memcpy(row, from, smaller(kLanes, head_dim - d) * sizeof(Element));
                store(to + d, widen(row));
            }
    const Run<float> all = {work.values, end - begin};
    add_values<M, Some>(weights, &all, 1, padded, sums);
}

// The records of one split, which the tile's last query sees at least a key of.
template <int M, class Element>
void attend_split(const AttentionShape &shape, const AttentionTile &tile, int64_t split, const Work &work,
                  float *records) {
    const int64_t begin = split * kSplit, num_dims = padded_dim(shape.head_dim);
    const int64_t end = smaller(begin + kSplit, num_visible(shape, tile, M - 1));
    int64_t key = begin;
    for (; key + (kVectors - 1) * kLanes < end; key += kVectors * kLanes)
        score_vectors<M, kVectors, Element>(shape, tile, key, end, work, work.weights + (key - begin));
    for (; key < end; key += kLanes)
        score_vectors<M, 1, Element>(shape, tile, key, end, work, work.weights + (key - begin));
    float *largest_scores = records + num_dims * M, *totals = largest_scores + kLanes;
    store(largest_scores, set(kNegativeInfinity)), store(totals, set(0.0f));
    for (int m = 0; m < M; ++m) {
        const int64_t num_keys = smaller(end, num_visible(shape, tile, m)) - begin;
        if (num_keys > 0) softmax(work.weights + m * kWeightStride, num_keys, &largest_scores[m], &totals[m]);
    }
    for (int64_t d = 0; d < num_dims * M; d += kLanes) store(records + d, set(0.0f));
    // the keys that all queries see, then those that only the later ones do: not even a NaN there reaches the others
    const int64_t shared_end = larger(begin, smaller(end, num_visible(shape, tile, 0)));
    add_keys<M, M, Element>(shape, tile, begin, shared_end, work.weights, work, records);
    for (int m = 1; m < M; ++m)
        add_keys<M, 1, Element>(shape, tile, shared_end, smaller(end, num_visible(shape, tile, m)),
                                work.weights + m * kWeightStride + (shared_end - begin), work, records + m * kLanes);
}

void merge(int64_t head_dim, int64_t num_queries, const float *next, float *records) {
    const int64_t num_dims = padded_dim(head_dim);
    float *ours = records + num_dims * num_queries;
    const float *theirs = next + num_dims * num_queries;
    const F32 before = load(ours), after = load(theirs), most = max(before, after);
    float scale[kLanes], next_scale[kLanes];
    store(scale, exp_nonpositive(before - most)), store(next_scale, exp_nonpositive(after - most));
    store(ours, most);
    for (int64_t m = 0; m < num_queries; ++m) {
        if (theirs[m] == kNegativeInfinity) continue;  // it sees none of these keys
        ours[kLanes + m] = ours[kLanes + m] * scale[m] + theirs[kLanes + m] * next_scale[m];
        for (int64_t d = m * kLanes; d < num_dims * num_queries; d += num_queries * kLanes)
            store(records + d, fma(load(next + d), set(next_scale[m]), load(records + d) * set(scale[m])));
    }
}

template <int M, class Element>
void attend_with(const AttentionShape &shape, const AttentionTile &tile, int64_t first, int64_t last, float *records,
                 float *memory) {
    const Work work = carve(memory, shape.head_dim);
    for (int m = 0; m < M; ++m) {
        const int64_t j = tile.first + m;
        const float *q = tile.q + j / shape.group * shape.q_stride + j % shape.group * shape.head_dim;
        for (int64_t d = 0; d < shape.head_dim; d += kLanes)
            store(work.queries + (d / kDims * M + m) * kQueryStride + d % kDims,
                  load_first(q + d, shape.head_dim - d) * set(shape.scale));
    }
    attend_split<M, Element>(shape, tile, first, work, records);
    for (int64_t split = first + 1; split < last; ++split) {
        attend_split<M, Element>(shape, tile, split, work, work.next);
        merge(shape.head_dim, M, work.next, records);
    }
}

// attend_with for the tile's number of queries
template <int M>
void attend_some(const AttentionShape &shape, const AttentionTile &tile, int64_t first, int64_t last, float *records,
                 float *work) {
    if constexpr (M > 1)
        if (tile.num_queries < M) return attend_some<M - 1>(shape, tile, first, last, records, work);
    if (shape.kv.type == GLIMP_F16) return attend_with<M, uint16_t>(shape, tile, first, last, records, work);
    attend_with<M, float>(shape, tile, first, last, records, work);
}

void finish(const AttentionShape &shape, const AttentionTile &tile, const float *records) {
    const int64_t head_dim = shape.head_dim;
    const float *totals = records + padded_dim(head_dim) * tile.num_queries + kLanes;
    for (int64_t m = 0; m < tile.num_queries; ++m) {
        const int64_t j = tile.first + m;
        float *out = tile.out + j / shape.group * shape.out_stride + j % shape.group * head_dim;
        for (int64_t d = 0; d < head_dim; d += kLanes)
            store_first(out + d, load(records + d * tile.num_queries + m * kLanes) / set(totals[m]), head_dim - d);
    }
}

// As float16, whose largest number is 65504: beyond it values stay there; a NaN stays one.
void store_halves(const float *x, int64_t n, uint16_t *out) {
    const F32 most = set(65504.0f), least = set(-65504.0f);
    store_half(out, max(least, min(most, load_first(x, n))));
}

void store_key(const float *key, int64_t head_dim, int64_t page_size, int32_t type, void *keys) {
    if (type == GLIMP_F32) {
        for (int64_t d = 0; d < head_dim; ++d) static_cast<float *>(keys)[d * page_size] = key[d];
        return;
    }
    for (int64_t begin = 0; begin < head_dim; begin += kLanes) {
        uint16_t halves[kLanes];
        store_halves(key + begin, head_dim - begin, halves);
        for (int64_t i = 0; i < smaller(kLanes, head_dim - begin); ++i)
            static_cast<uint16_t *>(keys)[(begin + i) * page_size] = halves[i];
    }
}

void store_value(const float *value, int64_t head_dim, int32_t type, void *values) {
    if (type == GLIMP_F32) {
        std::memcpy(values, value, static_cast<size_t>(head_dim) * sizeof(float));
        return;
    }
    for (int64_t begin = 0; begin < head_dim; begin += kLanes) {
        uint16_t halves[kLanes];
        store_halves(value + begin, head_dim - begin, halves);
        std::memcpy(static_cast<uint16_t *>(values) + begin, halves,
                    static_cast<size_t>(smaller(kLanes, head_dim - begin)) * sizeof(uint16_t));
    }
}

}  // namespace

extern const AttentionKernels kAttention = {kMaxQueries,  work_floats, attend_some<kMaxQueries>, merge, finish,
                                            store_key,    store_value};

}  // namespace glimp::GLIMP_PATH
