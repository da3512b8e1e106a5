// The ops, spread over the threads; what glimp.h exports and glimp_forward strings together. Arguments are checked
// by then.
#pragma once

#include <initializer_list>
#include <new>

#include "cpu.h"

namespace glimp {

void rms_norm(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t d, const float *weight, float eps, float *out);

void silu_mul(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t f, float *out);

void rope_and_store(glimp_cpu &cpu, float *qkv, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                    const float *cos_sin, const float *q_norm, const float *k_norm, float eps,
                    const glimp_attention &batch, const glimp_kv &kv);

void paged_attention(glimp_cpu &cpu, const float *q, int64_t q_stride, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, float scale, const glimp_attention &batch, const glimp_kv &kv, float *out);

// Products of the same x [T, k] with several weights, each to a place of its own.
struct Product {
    const glimp_weight *weight;
    Output out;
};
void linear(glimp_cpu &cpu, const float *x, int64_t num_tokens, const Product *products, int num_products);

void embed(glimp_cpu &cpu, const int64_t *token_ids, int64_t num_tokens, const glimp_weight &weight, float *out);

// Whether a call's arguments are there and in range: an error code. Cost: reads the whole batch, but not the pages.
int32_t check_sizes(std::initializer_list<int64_t> sizes, int64_t least);  // their product must be a size, too
int32_t check_weight(const glimp_weight &weight);
int32_t check_heads(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim);
int32_t check_kv(const glimp_kv *kv);
int32_t check_slots(const glimp_attention *batch, const glimp_kv &kv, int64_t num_positions);
int32_t check_pages(const glimp_attention *batch, const glimp_kv &kv);

// Runs what one call of the C ABI asks for, which gives an error code: alone on this glimp_cpu, and without throwing.
template <class Call>
int32_t run_alone(glimp_cpu &cpu, Call &&call) {
    if (cpu.is_forked()) return GLIMP_FORKED;
    try {
        std::lock_guard<std::mutex> lock(cpu.in_use);
        return call();
    } catch (const std::bad_alloc &) {
        return GLIMP_OUT_OF_MEMORY;
    }
}

}  // namespace glimp
