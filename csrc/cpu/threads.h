// A few threads that share the work of one op after the other, made for ops that take microseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "processors.h"

namespace glimp {

// The calling thread and num_threads - 1 workers.
//
// Each thread has a share of the tasks, next to each other: what they read is too, and the hardware has it ready. Who
// is done with its own share goes on with another's. Tasks are claimed one by one, so a thread that the system has
// taken off its core holds up at most the task that it was at. Waiting threads spin for a while, then sleep.
class Threads {
  public:
    explicit Threads(int num_threads);
    ~Threads();
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

    int num_threads() const { return static_cast<int>(sleepers_.size()) + 1; }

    // Calls task(index, thread) for every index below num_tasks, from several threads at once; returns when all have
    // returned. The tasks must not throw. One call at a time.
    template <class Task>
    void run(int64_t num_tasks, Task &&task) {
        if (num_tasks <= 0) return;
        if (num_tasks == 1 || workers_.empty()) {
            for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
            return;
        }
        publish(num_tasks, [](void *t, int64_t index, int thread) { (*static_cast<Task *>(t))(index, thread); }, &task);
    }

  private:
    using Call = void (*)(void *task, int64_t index, int thread);
    struct Sleeper {
        bool is_asleep = false;
        WakingPlace place;
    };
    struct alignas(64) Share {
        std::atomic<int64_t> unclaimed{0};  // below 0 when there were more claims than tasks
    };

    void join_all();
    void publish(int64_t num_tasks, Call call, void *task);
    int64_t share_end(int64_t share) const { return num_tasks_ * (share + 1) / num_threads(); }
    void claim_and_run(int thread);
    void work(int thread);
    template <class Condition>
    bool spin_until(std::chrono::microseconds most, Condition condition) const;

    std::vector<std::thread> workers_;
    // The work at hand. It's written before the shares are set, and stays until `unfinished_` is 0.
    Call call_ = nullptr;
    void *task_ = nullptr;
    int64_t num_tasks_ = 0;
    std::unique_ptr<Share[]> shares_;               // of each thread
    alignas(64) std::atomic<int64_t> num_calls_{0};  // goes up when the shares are set
    alignas(64) std::atomic<int64_t> unfinished_{0};
    alignas(64) std::atomic<int> num_asleep_{0};
    std::atomic<bool> caller_sleeps_{false};
    std::atomic<bool> is_over_{false};
    std::mutex mutex_;
    std::condition_variable has_work_, is_done_;
    std::vector<Sleeper> sleepers_;  // of each worker, under the mutex
};

}  // namespace glimp
