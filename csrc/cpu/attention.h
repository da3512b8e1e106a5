// Attention over paged keys and values.
//
// Keys are taken in splits of kSplit positions. A split gives each query a record: its largest score, the sum of its
// weights and the weighted sum of the values. A query's records are merged in the order of the positions, so its bits
// depend neither on which other queries are there nor on which threads made the records.
#pragma once

#include <cstdint>

#include "../glimp.h"

namespace glimp {

constexpr int64_t kSplit = 128;

// What all tiles of a call share.
struct AttentionShape {
    glimp_kv kv;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t group;  // query heads that share a KV head
    int64_t q_stride;
    int64_t out_stride;
    float scale;
};

// Some query vectors of one sequence and KV head: vector j is head j % group of row j / group.
struct AttentionTile {
    const float *q;        // the sequence's first row, at the group's first head
    float *out;            // likewise
    const int32_t *pages;  // of the sequence
    int64_t kv_head;
    int64_t position;  // of the sequence's first row
    int64_t first;     // vector
    int64_t num_queries;
};

// The records of a tile's M queries: the weighted sums [D / 16, rounded up, M, 16], the largest scores [16], the sums of
// the weights [16]. (static: each code path needs its own.)
static constexpr int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
static constexpr int64_t record_floats(int64_t head_dim, int64_t num_queries) {
    return padded_dim(head_dim) * num_queries + 32;
}

struct AttentionKernels {
    int64_t max_queries;  // of a tile; at most 16
    // floats that `attend` works in
    int64_t (*work_floats)(int64_t head_dim);
    // the records of the splits first ... last - 1, merged
    void (*attend)(const AttentionShape &shape, const AttentionTile &tile, int64_t first, int64_t last, float *records,
                   float *work);
    // `records` becomes what it and `next`, the records of the keys after it, give together
    void (*merge)(int64_t head_dim, int64_t num_queries, const float *next, float *records);
    // the tile's rows of the output
    void (*finish)(const AttentionShape &shape, const AttentionTile &tile, const float *records);
    // one head's key and value [D] at their offset in a page: `keys` [D, S], `values` [D]
    void (*store_key)(const float *key, int64_t head_dim, int64_t page_size, int32_t type, void *keys);
    void (*store_value)(const float *value, int64_t head_dim, int32_t type, void *values);
};

}  // namespace glimp
