/* The C ABI of the loop that decodes on the GPU without the host: a library of its own, as only a GPU needs it.
 *
 * A decoding tick, recorded as a CUDA graph, becomes the body of a graph with a conditional WHILE node. After each tick
 * a kernel hands its samples to the host, makes the tick's inputs those of the next token, and decides whether the
 * loop goes on: it ends where the host must decide something.
 */
#ifndef GLIMP_CUDA_H
#define GLIMP_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLIMP_CUDA_ABI_VERSION 2
#define GLIMP_CUDA_API __attribute__((visibility("default")))

/* What a tick has sampled for one row. */
typedef struct {
    int64_t token;
    float entropy; /* nats */
    float logprob; /* nats */
    int32_t token_class;
    int32_t unused;
} glimp_sample;

/* What a token completes; the numbers are Boundary's. */
enum glimp_boundary { GLIMP_NO_BOUNDARY = 0, GLIMP_BLANK_LINE = 1, GLIMP_END_OF_THINKING = 2, GLIMP_END = 3 };

/* Addresses on the device, but for the last four. B is the bucket's number of rows, one token each. */
typedef struct {
    /* inputs of a tick, [B]; the kernel makes them the next token's */
    int64_t *token_ids, *positions, *slots, *sample_positions;
    int32_t *kv_len;
    /* what the tick has sampled, [B] */
    const int64_t *token;
    const float *entropy, *logprob;
    const uint8_t *token_class;
    /* the automaton of step boundaries, [states][num_classes] */
    const uint8_t *next_state, *completes;
    int32_t num_classes;
    /* of each row, [B] */
    int32_t *state;               /* the automaton's */
    int32_t *awaits_glimpse;      /* whether this tick's entropy decides who writes on */
    const float *small_below;     /* ... the small model, if it's below this many nats */
    const int32_t *ends_at_step;  /* the end of a step ends the loop: another model is asked then */
    const float *min_logprob;     /* so does a token that is less likely: nothing is proposed behind it */
    /* of a launch, [3] on the device: rows in use, the most ticks, ticks done */
    int32_t *control;
    /* pinned memory of the host */
    glimp_sample *samples; /* [ticks][B] */
    int32_t *num_done;     /* ticks whose samples can be read; written last */
    int32_t *is_over;      /* whether the loop has decided to end */
    const int32_t *stop;   /* the host asks for the end */
} glimp_loop_state;

typedef struct glimp_loop glimp_loop;

/* What an error code means, CUDA's or one of -1 (a null pointer) and -2 (a size out of range); never null. */
GLIMP_CUDA_API const char *glimp_cuda_error_string(int32_t error);
GLIMP_CUDA_API int32_t glimp_cuda_abi_version(void);

/* A loop whose body is `tick`, a cudaGraph_t, which may be destroyed afterwards; num_rows is B, at most 1024. */
GLIMP_CUDA_API int32_t glimp_loop_create(void *tick, const glimp_loop_state *state, int32_t num_rows, glimp_loop **loop);

/* Start the loop on a cudaStream_t, and come back at once. Its state must stay until it's over. */
GLIMP_CUDA_API int32_t glimp_loop_launch(glimp_loop *loop, void *stream);
GLIMP_CUDA_API void glimp_loop_destroy(glimp_loop *loop);

#ifdef __cplusplus
}
#endif

#endif
