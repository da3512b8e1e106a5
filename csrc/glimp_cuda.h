/* The C ABI of the loop that decodes on the GPU without the host: a library of its own, as only a GPU needs it.
 *
 * A decoding tick, recorded as a CUDA graph, becomes the body of a graph with a conditional WHILE node. After each tick
 * a kernel hands its samples to the host, makes the tick's inputs those of the next token, and decides whether the
 * loop goes on: it ends where the host must decide something.
 */
#ifndef GLIMP_CUDA_H
#define GLIMP_CUDA_H

#include <stdint.h>

#include "glimp_loop.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLIMP_CUDA_ABI_VERSION 3
#define GLIMP_CUDA_API __attribute__((visibility("default")))

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
