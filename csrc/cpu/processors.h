// On which processors a thread may run.
#pragma once

#include <thread>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace glimp {

// Where a sleeping thread may wake up.
//
// Linux often wakes a thread on the processor of its waker, which is busy, and moves it only milliseconds later. So who
// wakes a thread keeps it off its own processor first, and the thread, once awake, may go where it could before.
class WakingPlace {
  public:
#ifdef __linux__
    void keep_off_this_processor(std::thread &sleeper) {
        if (is_narrowed_ || pthread_getaffinity_np(sleeper.native_handle(), sizeof before_, &before_)) return;
        cpu_set_t others = before_;
        CPU_CLR(sched_getcpu(), &others);
        if (CPU_COUNT(&others) == 0) return;
        is_narrowed_ = !pthread_setaffinity_np(sleeper.native_handle(), sizeof others, &others);
    }

    // Called by the thread itself.
    void restore() {
        if (is_narrowed_) sched_setaffinity(0, sizeof before_, &before_);
        is_narrowed_ = false;
    }

  private:
    cpu_set_t before_ = {};
    bool is_narrowed_ = false;
#else
    void keep_off_this_processor(std::thread &) {}
    void restore() {}
#endif
};

}  // namespace glimp
