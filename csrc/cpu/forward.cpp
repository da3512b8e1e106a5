// A decoder's forward: model.py's order of ops, with nothing between them.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops.h"

namespace glimp {

namespace {

constexpr int64_t kMlpTokens = 64;  // the MLP goes through a batch in pieces, as its inner rows are the widest

// The activations of a forward, carved out of one block.
class Activations {
  public:
    Activations(glimp_cpu &cpu, const glimp_decoder &m, int64_t num_tokens)
        : width(m.hidden_size), qkv_width((m.num_heads + 2 * m.num_kv_heads) * m.head_dim) {
        const int64_t mlp_rows = std::min(num_tokens, kMlpTokens), heads_width = m.num_heads * m.head_dim;
        const int64_t sizes[] = {num_tokens * width, num_tokens * width, num_tokens * qkv_width,
                                 num_tokens * heads_width, mlp_rows * 2 * m.intermediate_size,
                                 mlp_rows * m.intermediate_size};
        float **const parts[] = {&hidden, &normed, &qkv, &attended, &gate_up, &activated};
        int64_t total = 0;
        for (const int64_t size : sizes) total += (size + 15) / 16 * 16;
        auto *at = static_cast<float *>(cpu.forward.reserve(total * static_cast<int64_t>(sizeof(float))));
        for (int i = 0; i < 6; ++i) *parts[i] = at, at += (sizes[i] + 15) / 16 * 16;
    }

    const int64_t width, qkv_width;
    float *hidden;     // [T, d], the residual stream
    float *normed;     // [T, d]
    float *qkv;        // [T, (H + 2 Hk) D]
    float *attended;   // [T, H D]
    float *gate_up;    // [kMlpTokens, 2 f]
    float *activated;  // [kMlpTokens, f]
};

void attend(glimp_cpu &cpu, const glimp_decoder &m, const glimp_layer &layer, const glimp_attention &batch,
            const glimp_kv &kv, Activations &a) {
    const int64_t num_tokens = batch.num_tokens, q_width = m.num_heads * m.head_dim;
    const int64_t kv_width = m.num_kv_heads * m.head_dim;
    rms_norm(cpu, a.hidden, num_tokens, a.width, layer.input_norm, m.rms_norm_eps, a.normed);
    const Product projections[] = {{&layer.q, {a.qkv, a.qkv_width, false}},
                                   {&layer.k, {a.qkv + q_width, a.qkv_width, false}},
                                   {&layer.v, {a.qkv + q_width + kv_width, a.qkv_width, false}}};
    linear(cpu, a.normed, num_tokens, projections, 3);
    rope_and_store(cpu, a.qkv, m.num_heads, m.num_kv_heads, m.head_dim, m.cos_sin, layer.q_norm, layer.k_norm,
                   m.rms_norm_eps, batch, kv);
    paged_attention(cpu, a.qkv, a.qkv_width, m.num_heads, m.num_kv_heads, m.head_dim,
                    1.0f / std::sqrt(static_cast<float>(m.head_dim)), batch, kv, a.attended);
}

// hidden += the attention's output projection, then hidden += MLP(norm(hidden)).
void finish_layer(glimp_cpu &cpu, const glimp_decoder &m, const glimp_layer &layer, int64_t num_rows, Activations &a) {
    const Product output = {&layer.output, {a.hidden, a.width, true}};
    linear(cpu, a.attended, num_rows, &output, 1);
    rms_norm(cpu, a.hidden, num_rows, a.width, layer.mlp_norm, m.rms_norm_eps, a.normed);
    const int64_t f = m.intermediate_size;
    for (int64_t begin = 0; begin < num_rows; begin += kMlpTokens) {
        const int64_t rows = std::min(kMlpTokens, num_rows - begin);
        const Product gate_up[] = {{&layer.gate, {a.gate_up, 2 * f, false}}, {&layer.up, {a.gate_up + f, 2 * f, false}}};
        linear(cpu, a.normed + begin * a.width, rows, gate_up, 2);
        silu_mul(cpu, a.gate_up, rows, f, a.activated);
        const Product down = {&layer.down, {a.hidden + begin * a.width, a.width, true}};
        linear(cpu, a.activated, rows, &down, 1);
    }
}

// Rows `rows` [R] of x [T, width], in ascending or any order, to the front of `out`.
void gather_rows(const float *x, int64_t width, const int64_t *rows, int64_t num_rows, float *out) {
    for (int64_t r = 0; r < num_rows; ++r)
        std::memcpy(out + r * width, x + rows[r] * width, static_cast<size_t>(width) * sizeof(float));
}

void forward(glimp_cpu &cpu, const glimp_decoder &m, const int64_t *token_ids, const glimp_attention &batch,
             const int64_t *logit_rows, int64_t num_logit_rows, int64_t num_logits, const glimp_kv *kv, float *logits) {
    Activations a(cpu, m, std::max(batch.num_tokens, num_logit_rows));
    embed(cpu, token_ids, batch.num_tokens, m.embedding, a.hidden);
    for (int64_t i = 0; i < m.num_layers; ++i) {
        attend(cpu, m, m.layers[i], batch, kv[i], a);
        if (i + 1 < m.num_layers) finish_layer(cpu, m, m.layers[i], batch.num_tokens, a);
    }
    // after the last K/V only the asked rows matter; qkv and normed are free by then
    const int64_t q_width = m.num_heads * m.head_dim;
    gather_rows(a.attended, q_width, logit_rows, num_logit_rows, a.qkv);
    gather_rows(a.hidden, a.width, logit_rows, num_logit_rows, a.normed);
    std::swap(a.attended, a.qkv);
    std::swap(a.hidden, a.normed);
    finish_layer(cpu, m, m.layers[m.num_layers - 1], num_logit_rows, a);
    rms_norm(cpu, a.hidden, num_logit_rows, a.width, m.norm, m.rms_norm_eps, a.normed);
    glimp_weight first = m.head;
    first.n = num_logits;
    const Product head = {&first, {logits, num_logits, false}};
    linear(cpu, a.normed, num_logit_rows, &head, 1);
}

int32_t check_ids(const int64_t *ids, int64_t num_ids, int64_t end) {
    for (int64_t i = 0; i < num_ids; ++i)
        if (ids[i] < 0 || ids[i] >= end) return GLIMP_OUT_OF_RANGE;
    return GLIMP_OK;
}

int32_t check_matrix(const glimp_weight &weight, int64_t n, int64_t k) {
    if (const int32_t error = check_weight(weight)) return error;
    return weight.n == n && weight.k == k ? GLIMP_OK : GLIMP_BAD_SIZE;
}

int32_t check_layer(const glimp_decoder &m, const glimp_layer &layer) {
    if (!layer.input_norm || !layer.mlp_norm) return GLIMP_NULL_POINTER;
    const int64_t d = m.hidden_size, f = m.intermediate_size, q = m.num_heads * m.head_dim;
    const int64_t kv = m.num_kv_heads * m.head_dim;
    const struct {
        const glimp_weight &weight;
        int64_t n, k;
    } matrices[] = {{layer.q, q, d},      {layer.k, kv, d},   {layer.v, kv, d},  {layer.output, d, q},
                    {layer.gate, f, d},   {layer.up, f, d},   {layer.down, d, f}};
    for (const auto &each : matrices)
        if (const int32_t error = check_matrix(each.weight, each.n, each.k)) return error;
    return GLIMP_OK;
}

int32_t check_decoder(const glimp_decoder &m, const glimp_kv *kv) {
    if (const int32_t error = check_heads(m.num_heads, m.num_kv_heads, m.head_dim)) return error;
    if (m.head_dim % 2 != 0) return GLIMP_BAD_SIZE;
    if (const int32_t error = check_sizes({m.hidden_size, m.intermediate_size, 2}, 1)) return error;
    if (!m.layers || !m.norm || !m.cos_sin) return GLIMP_NULL_POINTER;
    if (const int32_t error = check_matrix(m.embedding, m.vocab_size, m.hidden_size)) return error;
    if (const int32_t error = check_matrix(m.head, m.vocab_size, m.hidden_size)) return error;
    for (int64_t i = 0; i < m.num_layers; ++i) {
        if (const int32_t error = check_layer(m, m.layers[i])) return error;
        if (const int32_t error = check_kv(&kv[i])) return error;
        if (kv[i].num_pages != kv[0].num_pages || kv[i].page_size != kv[0].page_size) return GLIMP_BAD_SIZE;
    }
    return GLIMP_OK;
}

int32_t check_call(const glimp_decoder &m, const int64_t *token_ids, const glimp_attention &batch,
                   const int64_t *logit_rows, int64_t num_logit_rows, int64_t num_logits, const glimp_kv *kv) {
    if (const int32_t error = check_decoder(m, kv)) return error;
    if (num_logits < 1 || num_logits > m.vocab_size) return GLIMP_BAD_SIZE;
    const int64_t num_rows = std::max(batch.num_tokens, num_logit_rows);
    const int64_t qkv_width = (m.num_heads + 2 * m.num_kv_heads) * m.head_dim;
    if (const int32_t error = check_sizes({num_rows, m.hidden_size + qkv_width, 4}, 0)) return error;
    if (const int32_t error = check_sizes({num_logit_rows, m.vocab_size}, 0)) return error;
    if (const int32_t error = check_slots(&batch, kv[0], m.num_positions)) return error;
    if (const int32_t error = check_pages(&batch, kv[0])) return error;
    if (const int32_t error = check_ids(token_ids, batch.num_tokens, m.vocab_size)) return error;
    return check_ids(logit_rows, num_logit_rows, batch.num_tokens);
}

}  // namespace

}  // namespace glimp

extern "C" int32_t glimp_forward(glimp_cpu *cpu, const glimp_decoder *decoder, const int64_t *token_ids,
                                 const glimp_attention *batch, const int64_t *logit_rows, int64_t num_logit_rows,
                                 int64_t num_logits, const glimp_kv *kv, float *logits) {
    if (!cpu || !decoder || !batch || !kv) return GLIMP_NULL_POINTER;
    if (batch->num_tokens < 0 || num_logit_rows < 0 || decoder->num_layers < 1) return GLIMP_BAD_SIZE;
    if (batch->num_tokens == 0) return num_logit_rows == 0 ? GLIMP_OK : GLIMP_OUT_OF_RANGE;
    if (!token_ids || !logits || (num_logit_rows > 0 && !logit_rows)) return GLIMP_NULL_POINTER;
    if (const int32_t error =
            glimp::check_call(*decoder, token_ids, *batch, logit_rows, num_logit_rows, num_logits, kv))
        return error;
    return glimp::run_alone(*cpu, [&] {
        glimp::forward(*cpu, *decoder, token_ids, *batch, logit_rows, num_logit_rows, num_logits, kv, logits);
        return GLIMP_OK;
    });
}
