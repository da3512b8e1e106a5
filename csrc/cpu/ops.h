// The ops, spread over the threads; what glimp.h exports and glimp_forward strings together. Arguments are checked
// by then.
#pragma once

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

}  // namespace glimp
