// Which code paths there are, which of them this processor can run, and the life of a glimp_cpu.

#include "cpu.h"

#include <algorithm>
#include <new>
#include <system_error>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace glimp {

#define GLIMP_DECLARE(path)                   \
    namespace path {                          \
    extern const ElementwiseKernels kElementwise; \
    extern const LinearKernels kLinear;       \
    extern const FloatLinearKernels kFloatLinear; \
    extern const AttentionKernels kAttention; \
    extern const VocabularyKernels kVocabulary; \
    }
GLIMP_DECLARE(portable)
#ifdef GLIMP_X86
GLIMP_DECLARE(avx2)
GLIMP_DECLARE(avx512)
GLIMP_DECLARE(avx512_vnni)
GLIMP_DECLARE(avx512_bf16)
#endif

namespace {

#define GLIMP_KERNELS(id, path) \
    {id, path::kElementwise, path::kLinear, path::kFloatLinear, path::kAttention, path::kVocabulary}
const Kernels kPaths[] = {
#ifdef GLIMP_X86
    GLIMP_KERNELS(GLIMP_PATH_AVX512_BF16, avx512_bf16),
    GLIMP_KERNELS(GLIMP_PATH_AVX512_VNNI, avx512_vnni),
    GLIMP_KERNELS(GLIMP_PATH_AVX512, avx512),
    GLIMP_KERNELS(GLIMP_PATH_AVX2, avx2),
#endif
    GLIMP_KERNELS(GLIMP_PATH_PORTABLE, portable),
};

constexpr int64_t kHugePage = 2 << 20;

bool can_run(int32_t path) {
    if (path == GLIMP_PATH_PORTABLE) return true;
#ifdef GLIMP_X86
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (path == GLIMP_PATH_AVX2) return has_avx2;
    if (path == GLIMP_PATH_AVX512) return has_avx512;
    const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
    if (path == GLIMP_PATH_AVX512_VNNI) return has_vnni;
    if (path == GLIMP_PATH_AVX512_BF16) return has_vnni && __builtin_cpu_supports("avx512bf16");
#endif
    return false;
}

}  // namespace

const Kernels *find_kernels(int32_t path) {
    for (const Kernels &kernels : kPaths)  // the best first
        if ((path == GLIMP_PATH_BEST || path == kernels.path) && can_run(kernels.path)) return &kernels;
    return nullptr;
}

void *Scratch::reserve(int64_t num_bytes) {
    if (num_bytes > num_bytes_) {
        num_bytes = std::max(num_bytes, num_bytes_ / 4 * 5);  // a context that grows asks for a little more each time
        std::free(data_);
        num_bytes_ = 0;
        const int64_t unit = num_bytes < kHugePage ? 64 : kHugePage, rounded = (num_bytes + unit - 1) / unit * unit;
        data_ = std::aligned_alloc(static_cast<size_t>(unit), static_cast<size_t>(rounded));
        if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        // the rows of a wide output lie on as many small pages as there are rows, more than the TLB holds
        if (unit == kHugePage) madvise(data_, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
        num_bytes_ = rounded;
    }
    return data_;
}

}  // namespace glimp

extern "C" {

int32_t glimp_abi_version(void) { return GLIMP_ABI_VERSION; }

const char *glimp_error_string(int32_t error) {
    switch (error) {
        case GLIMP_OK: return "no error";
        case GLIMP_NULL_POINTER: return "a pointer is null";
        case GLIMP_BAD_SIZE: return "a size is negative, zero where nothing can be, or doesn't fit the others";
        case GLIMP_OUT_OF_RANGE: return "a token id is outside the vocabulary, or a position, slot or page isn't there";
        case GLIMP_OUT_OF_MEMORY: return "out of memory";
        case GLIMP_BAD_TYPE: return "an element type that this op doesn't take";
        case GLIMP_UNSUPPORTED_PATH: return "this processor, or this build, hasn't got the code path";
        case GLIMP_NO_THREADS: return "the system gives no more threads";
        case GLIMP_FORKED: return "made in a process that this one was forked from: make it in this one";
        case GLIMP_BAD_VALUE: return "a sampling parameter is NaN, infinite or outside its range";
        default: return "unknown error";
    }
}

int32_t glimp_cpu_create(int32_t num_threads, int32_t path, glimp_cpu **cpu) {
    if (!cpu) return GLIMP_NULL_POINTER;
    *cpu = nullptr;
    if (num_threads < 1 || num_threads > 1024) return GLIMP_BAD_SIZE;
    const glimp::Kernels *kernels = glimp::find_kernels(path);
    if (!kernels) return GLIMP_UNSUPPORTED_PATH;
    try {
        *cpu = new glimp_cpu(num_threads, *kernels);
    } catch (const std::system_error &) {
        return GLIMP_NO_THREADS;
    } catch (...) {
        return GLIMP_OUT_OF_MEMORY;
    }
    return GLIMP_OK;
}

void glimp_cpu_destroy(glimp_cpu *cpu) {
    if (cpu && !cpu->is_forked()) delete cpu;  // a forked one's threads can't be joined
}

int32_t glimp_cpu_path(const glimp_cpu *cpu) { return cpu ? cpu->kernels.path : GLIMP_PATH_BEST; }
}
