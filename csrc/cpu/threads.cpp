#include "threads.h"

#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define GLIMP_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define GLIMP_PAUSE() asm volatile("yield")
#else
#define GLIMP_PAUSE() ((void)0)
#endif

namespace glimp {

namespace {

// A worker waits for the next op longer than a tick's Python takes, the caller for the others as long as a task takes.
constexpr std::chrono::microseconds kWorkerSpin(500), kCallerSpin(100);
constexpr int kPausesPerLook = 4;

}  // namespace

Threads::Threads(int num_threads)
    : shares_(new Share[static_cast<size_t>(num_threads)]), sleepers_(static_cast<size_t>(num_threads - 1)) {
    workers_.reserve(sleepers_.size());
    try {
        for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {  // no more threads: those that there are must not wait for work that can't come
        join_all();
        throw;
    }
}

Threads::~Threads() { join_all(); }

void Threads::join_all() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_over_ = true;
    }
    has_work_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

// Whether the condition came true within that time.
template <class Condition>
bool Threads::spin_until(std::chrono::microseconds most, Condition condition) const {
    const auto end = std::chrono::steady_clock::now() + most;
    do {
        for (int i = 0; i < 64; ++i) {
            if (condition()) return true;
            for (int j = 0; j < kPausesPerLook; ++j) GLIMP_PAUSE();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

void Threads::publish(int64_t num_tasks, Call call, void *task) {
    call_ = call, task_ = task, num_tasks_ = num_tasks;
    unfinished_.store(num_tasks, std::memory_order_relaxed);
    for (int64_t i = 0, begin = 0; i < num_threads(); ++i) {
        shares_[i].unclaimed.store(share_end(i) - begin, std::memory_order_release);  // from here on it may be claimed
        begin = share_end(i);
    }
    num_calls_.fetch_add(1);
    if (num_asleep_.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        for (size_t i = 0; i < workers_.size(); ++i)
            if (sleepers_[i].is_asleep) sleepers_[i].place.keep_off_this_processor(workers_[i]);
        has_work_.notify_all();
    }
    claim_and_run(0);
    const auto is_done = [this] { return unfinished_.load() == 0; };
    if (spin_until(kCallerSpin, is_done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_ = true;
    is_done_.wait(lock, is_done);
    caller_sleeps_ = false;
}

// Run tasks while any is left. A claim that comes late, when a share was set anew, is as good as any other.
void Threads::claim_and_run(int thread) {
    int64_t num_done = 0;
    for (int i = 0; i < num_threads(); ++i) {
        const int owner = (thread + i) % num_threads();
        std::atomic<int64_t> &unclaimed = shares_[owner].unclaimed;
        while (unclaimed.load(std::memory_order_relaxed) > 0) {
            const int64_t left = unclaimed.fetch_sub(1, std::memory_order_acquire);
            if (left <= 0) break;
            call_(task_, share_end(owner) - left, thread);
            ++num_done;
        }
    }
    if (num_done > 0 && unfinished_.fetch_sub(num_done) == num_done && caller_sleeps_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        is_done_.notify_one();
    }
}

void Threads::work(int thread) {
    int64_t num_seen = 0;
    const auto has_work = [&] { return num_calls_.load() != num_seen || is_over_.load(); };
    while (!is_over_.load()) {
        if (!spin_until(kWorkerSpin, has_work)) {
            std::unique_lock<std::mutex> lock(mutex_);
            Sleeper &own = sleepers_[static_cast<size_t>(thread - 1)];
            own.is_asleep = true, ++num_asleep_;
            has_work_.wait(lock, has_work);
            own.is_asleep = false, --num_asleep_;
            own.place.restore();
        }
        num_seen = num_calls_.load();
        claim_and_run(thread);
    }
}

}  // namespace glimp
