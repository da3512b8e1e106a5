/* The C ABI of glimp_engine's native kernels: pointers, sizes and, on a GPU, a stream in; an error code out.
 *
 * No function allocates what it returns, prints, throws or keeps state. Row r of a matrix begins at r * its stride;
 * strides are in elements. Shape letters are those of the Python package: R logit rows, V vocabulary.
 */
#ifndef GLIMP_H
#define GLIMP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLIMP_ABI_VERSION 1
#define GLIMP_API __attribute__((visibility("default")))

enum glimp_error {
    GLIMP_OK = 0,
    GLIMP_NULL_POINTER = 1,
    GLIMP_BAD_SIZE = 2,
    GLIMP_OUT_OF_RANGE = 3, /* a seen token id outside the vocabulary */
    GLIMP_OUT_OF_MEMORY = 4,
};

/* The version this library was built with: it must equal GLIMP_ABI_VERSION of the header in use. */
GLIMP_API int32_t glimp_abi_version(void);

/* What an error code means, in English; never null. */
GLIMP_API const char *glimp_error_string(int32_t error);

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
} glimp_sampling;

/* One token a row, with its entropy and log-probability (nats, of the raw logits) and its boundary class.
 *
 * logits [R, V]; token_class [V]; token, entropy, logprob, out_class [R]. A row's results depend on that row alone.
 * A row with a NaN, or with nothing above -inf, gives token 0, entropy and logprob NaN.
 */
GLIMP_API int32_t glimp_sample(const float *logits, int64_t num_rows, int64_t vocab_size, int64_t row_stride,
                     const glimp_sampling *params, const uint8_t *token_class, int64_t *token, float *entropy,
                     float *logprob, uint8_t *out_class);

/* Philox4x32-10 of one counter (Salmon et al., SC 2011): counter [4], key [2], words [4]. */
GLIMP_API int32_t glimp_philox(const uint32_t *counter, const uint32_t *key, uint32_t *words);

#ifdef __cplusplus
}
#endif
#endif
