#include "ops.h"

#include <algorithm>

namespace glimp {

constexpr int64_t kMostElements = int64_t{1} << 48;  // of a tensor: more than any machine has, and far from overflow

namespace {

constexpr int64_t kPiece = 4096;      // floats of a task: about a microsecond
constexpr int64_t kTokensOfTask = 16;  // their slots are often one page, so threads rarely write to the same cache line
constexpr int64_t kTasksOfThread = 4;  // tasks larger than a fourth of a thread's share are cut up

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The bytes of an element of the K/V.
int64_t element_bytes(const glimp_kv &kv) { return kv.type == GLIMP_F16 ? 2 : 4; }

// A tile of the queries, all its keys or one split of them.
struct AttentionTask {
    AttentionTile tile;
    int64_t first, last;  // splits
    float *records;       // where they go, if the tile is cut up
};

// Calls visit(tile, number of splits) for every tile of the batch, those with the most keys of a sequence first.
template <class Visit>
void for_each_tile(const AttentionShape &shape, const glimp_attention &batch, const float *q, float *out,
                   int64_t max_queries, Visit &&visit) {
    for (int64_t b = 0; b < batch.num_sequences; ++b) {
        const int64_t row = batch.query_start[b], num_rows = batch.query_start[b + 1] - row;
        const int64_t num_vectors = num_rows * shape.group, num_tiles = ceil_div(num_vectors, max_queries);
        for (int64_t t = num_tiles - 1; t >= 0; --t) {
            const int64_t first = t * num_vectors / num_tiles, end = (t + 1) * num_vectors / num_tiles;
            AttentionTile tile = {};
            tile.pages = batch.page_table + b * batch.max_pages;
            tile.position = batch.kv_len[b] - num_rows;
            tile.first = first, tile.num_queries = end - first;
            const int64_t num_keys = tile.position + (end - 1) / shape.group + 1;
            for (tile.kv_head = 0; tile.kv_head < shape.num_kv_heads; ++tile.kv_head) {
                tile.q = q + row * shape.q_stride + tile.kv_head * shape.group * shape.head_dim;
                tile.out = out + row * shape.out_stride + tile.kv_head * shape.group * shape.head_dim;
                visit(tile, ceil_div(num_keys, kSplit));
            }
        }
    }
}

}  // namespace

void rms_norm(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t d, const float *weight, float eps,
              float *out) {
    const int64_t rows_of_task = std::max<int64_t>(1, kPiece / d);
    cpu.threads.run(ceil_div(num_tokens, rows_of_task), [&](int64_t task, int) {
        for (int64_t t = task * rows_of_task; t < std::min(num_tokens, (task + 1) * rows_of_task); ++t)
            cpu.kernels.elementwise.rms_norm(x + t * d, weight, eps, d, out + t * d);
    });
}

void silu_mul(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t f, float *out) {
    const int64_t pieces_of_row = ceil_div(f, kPiece), rows_of_task = std::max<int64_t>(1, kPiece / f);
    cpu.threads.run(ceil_div(num_tokens, rows_of_task) * pieces_of_row, [&](int64_t task, int) {
        const int64_t begin = task % pieces_of_row * kPiece, n = std::min(kPiece, f - begin);
        const int64_t first = task / pieces_of_row * rows_of_task;
        for (int64_t t = first; t < std::min(num_tokens, first + rows_of_task); ++t) {
            const float *gate = x + t * 2 * f + begin;
            cpu.kernels.elementwise.silu_mul(gate, gate + f, n, out + t * f + begin);
        }
    });
}

void rope_and_store(glimp_cpu &cpu, float *qkv, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                    const float *cos_sin, const float *q_norm, const float *k_norm, float eps,
                    const glimp_attention &batch, const glimp_kv &kv) {
    const ElementwiseKernels &elementwise = cpu.kernels.elementwise;
    const AttentionKernels &attention = cpu.kernels.attention;
    const int64_t bytes = element_bytes(kv), page_floats = head_dim * kv.page_size;
    const auto one_token = [&](int64_t t) {
        float *heads = qkv + t * (num_heads + 2 * num_kv_heads) * head_dim;
        for (int64_t h = 0; h < num_heads + num_kv_heads; ++h) {
            float *head = heads + h * head_dim;
            const float *norm = h < num_heads ? q_norm : k_norm;
            if (norm) elementwise.rms_norm(head, norm, eps, head_dim, head);
            elementwise.rotate(head, cos_sin + batch.positions[t] * head_dim, head_dim);
        }
        const int64_t page = batch.slots[t] / kv.page_size, offset = batch.slots[t] % kv.page_size;
        for (int64_t h = 0; h < num_kv_heads; ++h) {
            const int64_t start = (page * num_kv_heads + h) * page_floats;
            const float *key = heads + (num_heads + h) * head_dim, *value = key + num_kv_heads * head_dim;
            attention.store_key(key, head_dim, kv.page_size, kv.type,
                                static_cast<char *>(kv.keys) + (start + offset) * bytes);
            attention.store_value(value, head_dim, kv.type,
                                  static_cast<char *>(kv.values) + (start + offset * head_dim) * bytes);
        }
    };
    cpu.threads.run(ceil_div(batch.num_tokens, kTokensOfTask), [&](int64_t task, int) {
        const int64_t end = std::min(batch.num_tokens, (task + 1) * kTokensOfTask);
        for (int64_t t = task * kTokensOfTask; t < end; ++t) one_token(t);
    });
}

// A task is a tile with all its keys or, where that would leave other threads waiting, with one split of them. The
// records of a tile that was cut up are merged afterwards, in the order in which one task merges them: the same bits.
void paged_attention(glimp_cpu &cpu, const float *q, int64_t q_stride, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, float scale, const glimp_attention &batch, const glimp_kv &kv, float *out) {
    const AttentionKernels &kernels = cpu.kernels.attention;
    const AttentionShape shape = {kv,       num_kv_heads,         head_dim, num_heads / num_kv_heads,
                                  q_stride, num_heads * head_dim, scale};
    const auto visit_tiles = [&](auto &&visit) {
        for_each_tile(shape, batch, q, out, kernels.max_queries, visit);
    };
    int64_t num_splits_in_all = 0;
    visit_tiles([&](const AttentionTile &, int64_t num_splits) { num_splits_in_all += num_splits; });
    const int64_t num_threads = cpu.threads.num_threads();
    const auto is_cut = [&](int64_t num_splits) {
        return num_threads > 1 && num_splits > 1 && num_splits * num_threads * kTasksOfThread > num_splits_in_all;
    };
    int64_t num_tasks = 0, num_cut = 0, num_floats = 0;  // of the records of tiles that are cut up
    visit_tiles([&](const AttentionTile &tile, int64_t num_splits) {
        num_tasks += is_cut(num_splits) ? num_splits : 1;
        num_cut += is_cut(num_splits);
        num_floats += is_cut(num_splits) ? num_splits * record_floats(head_dim, tile.num_queries) : 0;
    });

    const int64_t work_floats = kernels.work_floats(head_dim) + record_floats(head_dim, kernels.max_queries);
    auto *tasks = static_cast<AttentionTask *>(
        cpu.tasks.reserve((num_tasks + num_cut) * static_cast<int64_t>(sizeof(AttentionTask))));
    auto *work = static_cast<float *>(
        cpu.partials.reserve((num_threads * work_floats + num_floats) * static_cast<int64_t>(sizeof(float))));
    AttentionTask *task = tasks, *cut = tasks + num_tasks;
    float *records = work + num_threads * work_floats;
    visit_tiles([&](const AttentionTile &tile, int64_t num_splits) {
        if (!is_cut(num_splits)) {
            *task++ = {tile, 0, num_splits, nullptr};
            return;
        }
        *cut++ = {tile, 0, num_splits, records};
        for (int64_t split = 0; split < num_splits; ++split, records += record_floats(head_dim, tile.num_queries))
            *task++ = {tile, split, split + 1, records};
    });

    cpu.threads.run(num_tasks, [&](int64_t i, int thread) {
        float *own = work + thread * work_floats, *merged = own + kernels.work_floats(head_dim);
        const AttentionTask &at = tasks[i];
        kernels.attend(shape, at.tile, at.first, at.last, at.records ? at.records : merged, own);
        if (!at.records) kernels.finish(shape, at.tile, merged);
    });
    cpu.threads.run(num_cut, [&](int64_t i, int) {
        const AttentionTask &at = tasks[num_tasks + i];
        const int64_t of_split = record_floats(head_dim, at.tile.num_queries);
        for (int64_t split = 1; split < at.last; ++split)
            kernels.merge(head_dim, at.tile.num_queries, at.records + split * of_split, at.records);
        kernels.finish(shape, at.tile, at.records);
    });
}

int32_t check_sizes(std::initializer_list<int64_t> sizes, int64_t least) {
    int64_t product = 1;
    for (const int64_t size : sizes) {
        if (size < least || size > kMostElements) return GLIMP_BAD_SIZE;
        if (size > 0 && product > kMostElements / size) return GLIMP_BAD_SIZE;
        product *= std::max<int64_t>(size, 1);
    }
    return GLIMP_OK;
}

int32_t check_heads(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
    if (const int32_t error = check_sizes({num_heads, head_dim, 3}, 1)) return error;
    const bool is_good = num_kv_heads > 0 && num_heads > 0 && num_heads % num_kv_heads == 0 && head_dim > 0;
    return is_good ? GLIMP_OK : GLIMP_BAD_SIZE;
}

int32_t check_kv(const glimp_kv *kv) {
    if (!kv || !kv->keys || !kv->values) return GLIMP_NULL_POINTER;
    if (kv->page_size < 1) return GLIMP_BAD_SIZE;
    if (const int32_t error = check_sizes({kv->num_pages, kv->page_size}, 0)) return error;
    return kv->type == GLIMP_F32 || kv->type == GLIMP_F16 ? GLIMP_OK : GLIMP_BAD_TYPE;
}

int32_t check_slots(const glimp_attention *batch, const glimp_kv &kv, int64_t num_positions) {
    if (!batch) return GLIMP_NULL_POINTER;
    if (const int32_t error = check_sizes({batch->num_tokens}, 0)) return error;
    if (const int32_t error = check_sizes({num_positions}, 0)) return error;
    if (batch->num_tokens > 0 && (!batch->positions || !batch->slots)) return GLIMP_NULL_POINTER;
    for (int64_t t = 0; t < batch->num_tokens; ++t) {
        if (batch->positions[t] < 0 || batch->positions[t] >= num_positions) return GLIMP_OUT_OF_RANGE;
        if (batch->slots[t] < 0 || batch->slots[t] / kv.page_size >= kv.num_pages) return GLIMP_OUT_OF_RANGE;
    }
    return GLIMP_OK;
}

int32_t check_pages(const glimp_attention *batch, const glimp_kv &kv) {
    if (!batch) return GLIMP_NULL_POINTER;
    if (const int32_t error = check_sizes({batch->num_tokens}, 0)) return error;
    if (const int32_t error = check_sizes({batch->num_sequences, batch->max_pages}, 0)) return error;
    if (batch->num_sequences == 0) return batch->num_tokens == 0 ? GLIMP_OK : GLIMP_BAD_SIZE;
    if (!batch->query_start || !batch->kv_len) return GLIMP_NULL_POINTER;
    if (batch->query_start[0] != 0 || batch->query_start[batch->num_sequences] != batch->num_tokens)
        return GLIMP_BAD_SIZE;
    for (int64_t b = 0; b < batch->num_sequences; ++b) {
        const int64_t num_rows = int64_t{batch->query_start[b + 1]} - batch->query_start[b];
        if (num_rows < 0 || batch->kv_len[b] < num_rows) return GLIMP_BAD_SIZE;
        if (num_rows == 0) continue;
        if (!batch->page_table) return GLIMP_NULL_POINTER;
        const int64_t num_pages = ceil_div(batch->kv_len[b], kv.page_size);
        if (num_pages > batch->max_pages) return GLIMP_OUT_OF_RANGE;
        const int32_t *pages = batch->page_table + b * batch->max_pages;
        for (int64_t i = 0; i < num_pages; ++i)
            if (pages[i] < 0 || pages[i] >= kv.num_pages) return GLIMP_OUT_OF_RANGE;
    }
    return GLIMP_OK;
}

}  // namespace glimp

extern "C" {

int32_t glimp_rms_norm(glimp_cpu *cpu, const float *x, int64_t num_tokens, int64_t d, const float *weight, float eps,
                       float *out) {
    if (!cpu) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_sizes({num_tokens, std::max<int64_t>(d, 0)}, 0)) return error;
    if (d < 1) return GLIMP_BAD_SIZE;
    if (num_tokens == 0) return GLIMP_OK;
    if (!x || !weight || !out) return GLIMP_NULL_POINTER;
    return glimp::run_alone(*cpu, [&] {
        glimp::rms_norm(*cpu, x, num_tokens, d, weight, eps, out);
        return GLIMP_OK;
    });
}

int32_t glimp_silu_mul(glimp_cpu *cpu, const float *x, int64_t num_tokens, int64_t f, float *out) {
    if (!cpu) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_sizes({num_tokens, std::max<int64_t>(f, 0), 2}, 0)) return error;
    if (f < 1) return GLIMP_BAD_SIZE;
    if (num_tokens == 0) return GLIMP_OK;
    if (!x || !out) return GLIMP_NULL_POINTER;
    return glimp::run_alone(*cpu, [&] {
        glimp::silu_mul(*cpu, x, num_tokens, f, out);
        return GLIMP_OK;
    });
}

int32_t glimp_rope_and_store(glimp_cpu *cpu, float *qkv, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                             const float *cos_sin, int64_t num_positions, const float *q_norm, const float *k_norm,
                             float eps, const glimp_attention *batch, const glimp_kv *kv) {
    if (!cpu) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_heads(num_heads, num_kv_heads, head_dim)) return error;
    if (head_dim % 2 != 0) return GLIMP_BAD_SIZE;
    if (const int32_t error = glimp::check_kv(kv)) return error;
    if (const int32_t error = glimp::check_slots(batch, *kv, num_positions)) return error;
    if (batch->num_tokens == 0) return GLIMP_OK;
    if (!qkv || !cos_sin) return GLIMP_NULL_POINTER;
    return glimp::run_alone(*cpu, [&] {
        glimp::rope_and_store(*cpu, qkv, num_heads, num_kv_heads, head_dim, cos_sin, q_norm, k_norm, eps, *batch, *kv);
        return GLIMP_OK;
    });
}

int32_t glimp_paged_attention(glimp_cpu *cpu, const float *q, int64_t q_stride, int64_t num_heads,
                              int64_t num_kv_heads, int64_t head_dim, float scale, const glimp_attention *batch,
                              const glimp_kv *kv, float *out) {
    if (!cpu) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_heads(num_heads, num_kv_heads, head_dim)) return error;
    if (q_stride < num_heads * head_dim || q_stride > glimp::kMostElements) return GLIMP_BAD_SIZE;
    if (const int32_t error = glimp::check_kv(kv)) return error;
    if (const int32_t error = glimp::check_pages(batch, *kv)) return error;
    if (batch->num_tokens == 0) return GLIMP_OK;
    if (!q || !out) return GLIMP_NULL_POINTER;
    return glimp::run_alone(*cpu, [&] {
        glimp::paged_attention(*cpu, q, q_stride, num_heads, num_kv_heads, head_dim, scale, *batch, *kv, out);
        return GLIMP_OK;
    });
}
}
