// What glimp_cpu is: the threads, the kernels of one code path, and scratch memory that grows and is kept.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <mutex>

#include <unistd.h>

#include "../glimp.h"
#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "threads.h"
#include "vocabulary.h"

namespace glimp {

// Everything that's compiled once for each code path.
struct Kernels {
    int32_t path;
    ElementwiseKernels elementwise;
    LinearKernels linear;
    FloatLinearKernels float_linear;
    AttentionKernels attention;
    VocabularyKernels vocabulary;
};

// The kernels of a path, or of the best one; null if this processor can't run them or they weren't built.
const Kernels *find_kernels(int32_t path);

// Memory that is kept from one call to the next and only ever grows; 64-byte aligned.
class Scratch {
  public:
    Scratch() = default;
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;

    // Throws std::bad_alloc. What the memory held is lost when it grows.
    void *reserve(int64_t num_bytes);

  private:
    void *data_ = nullptr;
    int64_t num_bytes_ = 0;
};

}  // namespace glimp

struct glimp_cpu {
    glimp_cpu(int num_threads, const glimp::Kernels &chosen)
        : process(getpid()), threads(num_threads), kernels(chosen) {}

    bool is_forked() const { return getpid() != process; }

    const pid_t process;         // that the threads are in
    glimp::Threads threads;
    const glimp::Kernels &kernels;
    std::mutex in_use;           // one call at a time
    glimp::Scratch forward;      // a forward's activations
    glimp::Scratch quantized;    // a linear's input as int8
    glimp::Scratch rounded;      // ... as bfloat16
    glimp::Scratch partials;     // attention's partial results
    glimp::Scratch tasks;        // attention's tasks
    glimp::Scratch sampling;     // a row's scaled logits, and those that the filters look at
};
