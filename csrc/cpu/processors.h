// On which processors the threads run.
#pragma once

#include <thread>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace glimp {

// The processors that the thread which makes it may use.
//
// Linux often wakes a thread on the processor of its waker, which is busy, and moves it only milliseconds later. So who
// wakes a thread keeps it off its own processor first, and the thread, once awake, may go anywhere again.
class Processors {
  public:
#ifdef __linux__
    Processors() { sched_getaffinity(0, sizeof all_, &all_); }

    void keep_off_this_one(std::thread &sleeper) const {
        cpu_set_t others = all_;
        CPU_CLR(sched_getcpu(), &others);
        if (CPU_COUNT(&others) > 0) pthread_setaffinity_np(sleeper.native_handle(), sizeof others, &others);
    }

    void allow_all() const { sched_setaffinity(0, sizeof all_, &all_); }

  private:
    cpu_set_t all_ = {};
#else
    void keep_off_this_one(std::thread &) const {}
    void allow_all() const {}
#endif
};

}  // namespace glimp
