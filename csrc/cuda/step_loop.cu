// The device-resident decoding loop: glimp_cuda.h.

#include <cuda_runtime.h>

#include <new>

#include "../glimp_cuda.h"

struct glimp_loop {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
};

namespace {

constexpr int kMaxRows = 1024;

__global__ void advance_kernel(glimp_loop_state s, int num_capacity, cudaGraphConditionalHandle handle) {
    const int row = static_cast<int>(threadIdx.x), tick = s.control[GLIMP_NUM_TICKS];
    const bool must_stop = row < s.control[GLIMP_NUM_ROWS] && glimp_advance_row(&s, row, num_capacity, tick);
    __threadfence_system();  // the samples are there before their number is
    const bool any_must_stop = __syncthreads_or(must_stop);
    if (row > 0) return;
    const bool goes_on = !any_must_stop && tick + 1 < s.control[GLIMP_MAX_TICKS] &&
                         *static_cast<const volatile int32_t *>(s.stop) == 0;
    s.control[GLIMP_NUM_TICKS] = tick + 1;
    if (!goes_on) *static_cast<volatile int32_t *>(s.is_over) = 1;
    __threadfence_system();
    *static_cast<volatile int32_t *>(s.num_done) = tick + 1;
    cudaGraphSetConditional(handle, goes_on);
}

cudaError_t build(cudaGraph_t tick, const glimp_loop_state &state, int num_rows, glimp_loop &loop) {
    cudaError_t error = cudaGraphCreate(&loop.graph, 0);
    if (error != cudaSuccess) return error;
    cudaGraphConditionalHandle handle;
    error = cudaGraphConditionalHandleCreate(&handle, loop.graph, 1, cudaGraphCondAssignDefault);
    if (error != cudaSuccess) return error;
    cudaGraphNodeParams loop_params = {};
    loop_params.type = cudaGraphNodeTypeConditional;
    loop_params.conditional.handle = handle;
    loop_params.conditional.type = cudaGraphCondTypeWhile;
    loop_params.conditional.size = 1;
    cudaGraphNode_t loop_node;
#if CUDART_VERSION >= 13000
    error = cudaGraphAddNode(&loop_node, loop.graph, nullptr, nullptr, 0, &loop_params);
#else
    error = cudaGraphAddNode(&loop_node, loop.graph, nullptr, 0, &loop_params);
#endif
    if (error != cudaSuccess) return error;
    cudaGraph_t body = loop_params.conditional.phGraph_out[0];
    cudaGraphNode_t tick_node, advance_node;
    error = cudaGraphAddChildGraphNode(&tick_node, body, nullptr, 0, tick);
    if (error != cudaSuccess) return error;
    glimp_loop_state by_value = state;
    void *arguments[] = {&by_value, &num_rows, &handle};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void *>(advance_kernel);
    kernel.gridDim = dim3(1);
    kernel.blockDim = dim3(static_cast<unsigned>((num_rows + 31) / 32 * 32));
    kernel.kernelParams = arguments;
    error = cudaGraphAddKernelNode(&advance_node, body, &tick_node, 1, &kernel);
    if (error != cudaSuccess) return error;
    return cudaGraphInstantiate(&loop.executable, loop.graph, 0);
}

}  // namespace

extern "C" {

int32_t glimp_cuda_abi_version(void) { return GLIMP_CUDA_ABI_VERSION; }

const char *glimp_cuda_error_string(int32_t error) {
    if (error == -1) return "a pointer is null";
    if (error == -2) return "a size is out of range";
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

int32_t glimp_loop_create(void *tick, const glimp_loop_state *state, int32_t num_rows, glimp_loop **loop) {
    if (!tick || !state || !loop) return -1;
    if (num_rows < 1 || num_rows > kMaxRows || state->num_classes < 1) return -2;
    auto *made = new (std::nothrow) glimp_loop;
    if (!made) return static_cast<int32_t>(cudaErrorMemoryAllocation);
    const cudaError_t error = build(static_cast<cudaGraph_t>(tick), *state, num_rows, *made);
    if (error != cudaSuccess) {
        glimp_loop_destroy(made);
        return static_cast<int32_t>(error);
    }
    *loop = made;
    return 0;
}

int32_t glimp_loop_launch(glimp_loop *loop, void *stream) {
    if (!loop) return -1;
    return static_cast<int32_t>(cudaGraphLaunch(loop->executable, static_cast<cudaStream_t>(stream)));
}

void glimp_loop_destroy(glimp_loop *loop) {
    if (!loop) return;
    if (loop->executable) cudaGraphExecDestroy(loop->executable);
    if (loop->graph) cudaGraphDestroy(loop->graph);
    delete loop;
}
}
