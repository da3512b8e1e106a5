/* The C ABI of glimp_engine's native kernels: pointers, sizes and, on a GPU, a stream in; an error code out.
 *
 * No function prints, throws or keeps what it was given. Matrices are row-major; strides are in elements. Shape
 * letters are those of the Python package: T tokens, B sequences, R logit rows, d hidden size, f MLP size, H query
 * heads, Hk KV heads, D head dim, V vocabulary, P pages, S page size, L layers.
 */
#ifndef GLIMP_H
#define GLIMP_H

#include <stdint.h>

#include "glimp_loop.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLIMP_ABI_VERSION 6
#define GLIMP_API __attribute__((visibility("default")))

enum glimp_error {
    GLIMP_OK = 0,
    GLIMP_NULL_POINTER = 1,
    GLIMP_BAD_SIZE = 2,
    GLIMP_OUT_OF_RANGE = 3, /* a token id, position, slot or page that isn't there */
    GLIMP_OUT_OF_MEMORY = 4,
    GLIMP_BAD_TYPE = 5,
    GLIMP_UNSUPPORTED_PATH = 6, /* this processor can't run that code path */
    GLIMP_NO_THREADS = 7,       /* the system has no more threads to give */
    GLIMP_FORKED = 8,           /* made in another process, whose threads a fork doesn't take along */
    GLIMP_BAD_VALUE = 9,        /* a sampling parameter that is NaN, infinite or outside its range */
};

/* The version this library was built with: it must equal GLIMP_ABI_VERSION of the header in use. */
GLIMP_API int32_t glimp_abi_version(void);

/* What an error code means, in English; never null. */
GLIMP_API const char *glimp_error_string(int32_t error);

/* ---- The processor: threads, code path, scratch memory. ---- */

/* Code paths, each one a set of processor features; a path with more of them is faster. */
enum glimp_path {
    GLIMP_PATH_BEST = 0, /* the fastest that this processor can run */
    GLIMP_PATH_PORTABLE = 1,
    GLIMP_PATH_AVX2 = 2,        /* AVX2, FMA, F16C */
    GLIMP_PATH_AVX512 = 3,      /* AVX-512 F, BW, VL, DQ */
    GLIMP_PATH_AVX512_VNNI = 4, /* and VNNI */
    GLIMP_PATH_AVX512_BF16 = 5, /* and BF16, by which x is rounded where the weights are bfloat16 */
};

/* Threads that share the work of an op, and the scratch memory of each. One call at a time uses it; others wait. */
typedef struct glimp_cpu glimp_cpu;

/* num_threads counts the calling thread. The others sleep when there is nothing to do for a while. After a fork the
 * child must make one of its own: what it is given of its parent's is an error, or destroyed without effect. */
GLIMP_API int32_t glimp_cpu_create(int32_t num_threads, int32_t path, glimp_cpu **cpu);
GLIMP_API void glimp_cpu_destroy(glimp_cpu *cpu);
GLIMP_API int32_t glimp_cpu_path(const glimp_cpu *cpu);

/* ---- Weights. ---- */

/* Element types; the numbers are GGML's. */
enum glimp_type {
    GLIMP_F32 = 0,
    GLIMP_F16 = 1,
    GLIMP_Q4_0 = 2,
    GLIMP_Q4_1 = 3,
    GLIMP_Q5_0 = 6,
    GLIMP_Q5_1 = 7,
    GLIMP_Q8_0 = 8,
    GLIMP_Q4_K = 12,
    GLIMP_Q5_K = 13,
    GLIMP_Q6_K = 14,
    GLIMP_BF16 = 30,
};

/* A matrix [n, k] as the kernels read it: float types row-major as they are, quantised types packed (glimp_pack). */
typedef struct {
    const void *data;
    const float *bias; /* [n], or null */
    int64_t n;
    int64_t k;
    int32_t type;
} glimp_weight;

/* Bytes of a packed matrix; -1 if the type isn't quantised or k isn't a whole number of its blocks. */
GLIMP_API int64_t glimp_packed_bytes(int32_t type, int64_t n, int64_t k);

/* Repack the rows of a quantised matrix, in GGUF's layout, for the kernels; packed is 64-byte aligned. A matrix may be
 * packed in parts: rows from a multiple of 16, r, on belong at byte glimp_packed_bytes(type, r, k). */
GLIMP_API int32_t glimp_pack(glimp_cpu *cpu, int32_t type, const void *rows, int64_t n, int64_t k, void *packed);

/* ---- The ops, as kernels/__init__.py describes them; activations are float32. ---- */

/* One ragged batch, as the ops that touch the K/V pages see it. */
typedef struct {
    int64_t num_tokens;         /* T */
    int64_t num_sequences;      /* B */
    int64_t max_pages;          /* row length of page_table */
    const int64_t *positions;   /* [T] */
    const int64_t *slots;       /* [T]: page * S + offset */
    const int32_t *query_start; /* [B + 1] */
    const int32_t *page_table;  /* [B, max_pages] */
    const int32_t *kv_len;      /* [B] */
} glimp_attention;

/* One layer's K/V. Inside a page keys are stored with the positions side by side: keys [P, Hk, D, S],
 * values [P, Hk, S, D]. Type GLIMP_F32 or GLIMP_F16. */
typedef struct {
    void *keys;
    void *values;
    int64_t num_pages;
    int64_t page_size;
    int32_t type;
} glimp_kv;

/* out [T, d] float32: rows of the embedding, dequantised. */
GLIMP_API int32_t glimp_embed(glimp_cpu *cpu, const int64_t *token_ids, int64_t num_tokens, const glimp_weight *weight,
                              float *out);

/* out [T, d] = x / sqrt(mean(x^2) + eps) * weight. */
GLIMP_API int32_t glimp_rms_norm(glimp_cpu *cpu, const float *x, int64_t num_tokens, int64_t d, const float *weight,
                                 float eps, float *out);

/* out [T, n] = x [T, k] times the weight transposed, plus its bias, plus what `out` held if `accumulate`.
 * With quantised weights x is rounded to int8, each block of 32 with a scale of its own. */
GLIMP_API int32_t glimp_linear(glimp_cpu *cpu, const float *x, int64_t num_tokens, const glimp_weight *weight,
                               float *out, int64_t out_stride, int32_t accumulate);

/* qkv [T, (H + 2 Hk) D]: the query heads are rotated in place; keys are rotated, and stored with the values.
 * q_norm and k_norm [D] or null; cos_sin [positions, 2, D / 2]. */
GLIMP_API int32_t glimp_rope_and_store(glimp_cpu *cpu, float *qkv, int64_t num_heads, int64_t num_kv_heads,
                                       int64_t head_dim, const float *cos_sin, int64_t num_positions,
                                       const float *q_norm, const float *k_norm, float eps,
                                       const glimp_attention *batch, const glimp_kv *kv);

/* out [T, H D]: causal attention of the queries q [T, H D] (rows q_stride apart) over their sequences' pages. */
GLIMP_API int32_t glimp_paged_attention(glimp_cpu *cpu, const float *q, int64_t q_stride, int64_t num_heads,
                                        int64_t num_kv_heads, int64_t head_dim, float scale,
                                        const glimp_attention *batch, const glimp_kv *kv, float *out);

/* out [T, f] = silu(x[:, :f]) * x[:, f:], x [T, 2f]. */
GLIMP_API int32_t glimp_silu_mul(glimp_cpu *cpu, const float *x, int64_t num_tokens, int64_t f, float *out);

/* Sampling parameters, one value a row; see kernels/__init__.py for their meaning. */
typedef struct {
    const float *temperature;        /* [R] */
    const int32_t *top_k;            /* [R] */
    const float *top_p;              /* [R] */
    const float *min_p;              /* [R] */
    const float *repetition_penalty; /* [R] */
    const float *presence_penalty;   /* [R] */
    const float *frequency_penalty;  /* [R] */
    const int64_t *seed;             /* [R] */
    const int32_t *sequence_index;   /* [R] */
    const int64_t *position;         /* [R] */
    const int32_t *seen_start;       /* [R + 1] */
    const int64_t *seen_ids;         /* [seen_start[R]] */
    const int32_t *seen_counts;      /* [seen_start[R]] */
    const int32_t *bias_start;       /* [R + 1] */
    const int64_t *bias_ids;         /* [bias_start[R]] */
    const float *bias_values;        /* [bias_start[R]], below infinity; -infinity bans */
    const int32_t *listed_only;      /* [R] */
    const uint32_t *token_mask;      /* [R, (V + 31) / 32], bit i % 32 of word i / 32 is 0 where token i is banned; or null */
} glimp_sampling;

/* One token a row, with its entropy and log-probability (nats, of the raw logits) and its boundary class.
 *
 * logits [R, V]; token_class [V]; token, entropy, logprob, out_class [R]. A row's results depend on that row alone.
 * A row with a NaN, or with nothing above -inf, gives token 0, entropy and logprob NaN; one whose biases and
 * mask leave nothing above -inf gives token 0 and logprob NaN.
 */
GLIMP_API int32_t glimp_sample(glimp_cpu *cpu, const float *logits, int64_t num_rows, int64_t vocab_size,
                               int64_t row_stride, const glimp_sampling *params, const uint8_t *token_class,
                               int64_t *token, float *entropy, float *logprob, uint8_t *out_class);

/* Philox4x32-10 of one counter (Salmon et al., SC 2011): counter [4], key [2], words [4]. */
GLIMP_API int32_t glimp_philox(const uint32_t *counter, const uint32_t *key, uint32_t *words);

/* ---- The decoder: all the ops of a forward in one call. ---- */

typedef struct {
    const float *input_norm; /* [d] */
    const float *q_norm;     /* [D], or null */
    const float *k_norm;
    const float *mlp_norm; /* [d] */
    glimp_weight q, k, v, output, gate, up, down;
} glimp_layer;

typedef struct {
    int64_t num_layers;
    int64_t hidden_size;
    int64_t intermediate_size;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t vocab_size;
    int64_t num_positions; /* rows of cos_sin */
    float rms_norm_eps;
    const glimp_layer *layers; /* [L] */
    const float *norm;         /* [d] */
    const float *cos_sin;      /* [positions, 2, D / 2] */
    glimp_weight embedding;    /* [V, d] */
    glimp_weight head;         /* [V, d] */
} glimp_decoder;

/* Logits [R, num_logits] of the rows logit_rows [R] of the tokens token_ids [T], for the first num_logits tokens of the
 * vocabulary, whose rows of the head alone are read; the K/V of all tokens is stored in kv [L]. */
GLIMP_API int32_t glimp_forward(glimp_cpu *cpu, const glimp_decoder *decoder, const int64_t *token_ids,
                                const glimp_attention *batch, const int64_t *logit_rows, int64_t num_logit_rows,
                                int64_t num_logits, const glimp_kv *kv, float *logits);

/* Decode on: forward, sample, advance each row, until the loop is over (glimp_loop.h). The batch has one token a
 * sequence, logit_rows [R] are 0 to R - 1; logits [R, num_logits] is room. What batch and params say of positions, slots
 * and lengths lies where the loop moves it on. Of forbidden_ids, which must not be written, those below num_logits count.
 */
GLIMP_API int32_t glimp_decode(glimp_cpu *cpu, const glimp_decoder *decoder, const glimp_attention *batch,
                               const int64_t *logit_rows, int64_t num_logits, const glimp_kv *kv, float *logits,
                               const int64_t *forbidden_ids, int64_t num_forbidden, const glimp_sampling *params,
                               const uint8_t *token_class, const glimp_loop_state *loop);

#ifdef __cplusplus
}
#endif
#endif
