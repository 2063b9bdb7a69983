#include "common/kernels/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/base/affinity.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/thread_name.h"
#include "common/kernels/exact_math.h"

namespace m1 {
namespace {

// Operations of one layer follow within microseconds; a wake from sleep costs about 40 in a VM.
constexpr std::chrono::microseconds kSpin{20};
constexpr int kChecksPerClockRead = 64;
// A range is this part of what is left of a share: large at first, small where threads wait for one
// another.
constexpr int64_t kRangesOfShare = 4;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as `ready` is; false after kSpin.
template <typename Ready>
bool SpinUntil(Ready ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kChecksPerClockRead; ++i) {
      if (ready()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::vector<int> cores)
    : cores_(std::move(cores)), shares_(static_cast<size_t>(std::max(num_threads, 1))) {
  M1_CHECK(num_threads >= 1);
  M1_CHECK(cores_.empty() || cores_.size() >= static_cast<size_t>(num_threads));
  for (int worker = 1; worker < num_threads; ++worker) {
    workers_.emplace_back([this, worker] {
      NameThread("compute");
      Pin(static_cast<size_t>(worker));
      Work(static_cast<size_t>(worker));
    });
  }
}

void ThreadPool::Pin(size_t thread) const {
  if (cores_.empty()) return;
  const absl::Status status = PinThisThread(cores_[thread]);
  if (!status.ok()) {
    M1_LOG(kWarning) << "event=not_pinned thread=" << thread << " error=\"" << status.message()
                     << "\"";
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&mutex_);
    stop_.store(true);
    wake_workers_.SignalAll();
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t num_items, int64_t grain, Function f) {
  if (num_items <= 0) return;
  if (!is_caller_pinned_) {
    Pin(0);
    is_caller_pinned_ = true;
  }
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || num_items <= grain) {
    f(0, num_items);
    return;
  }
  function_ = &f;
  num_items_ = num_items;
  grain_ = grain;
  const int64_t num_grains = (num_items + grain - 1) / grain;
  for (int64_t i = 0; i < num_threads(); ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    share.next.store(num_grains * i / num_threads(), std::memory_order_relaxed);
    share.end = num_grains * (i + 1) / num_threads();
  }
  const uint64_t number = job_.load(std::memory_order_relaxed) / kJobUnit + 1;
  // Sequentially consistent, as is the sleeper's count: either we see the sleeper or it the job.
  job_.store(number * kJobUnit);
  if (sleeping_workers_.load() > 0) {
    MutexLock lock(&mutex_);
    wake_workers_.SignalAll();
  }
  ClaimRanges(0);
  job_.fetch_or(kClosed);
  AwaitWorkers();
}

void ThreadPool::Work(size_t thread) {
  const ScopedFlushDenormals flush;
  uint64_t last_job = 0;
  while ((last_job = JoinJob(last_job)) != 0) {
    ClaimRanges(thread);
    LeaveJob();
  }
}

uint64_t ThreadPool::JoinJob(uint64_t last_job) {
  const auto is_open = [&](uint64_t job) {
    return job / kJobUnit != last_job && (job & kClosed) == 0;
  };
  const auto ready = [&] { return is_open(job_.load()) || stop_.load(); };
  for (;;) {
    if (!SpinUntil(ready)) {
      MutexLock lock(&mutex_);
      sleeping_workers_.fetch_add(1);
      while (!ready()) wake_workers_.Wait(&mutex_);
      sleeping_workers_.fetch_sub(1);
    }
    if (stop_.load()) return 0;
    uint64_t job = job_.load();
    while (is_open(job)) {
      if (job_.compare_exchange_weak(job, job + 1)) return job / kJobUnit;
    }
  }
}

void ThreadPool::LeaveJob() {
  const uint64_t job = job_.fetch_sub(1) - 1;
  if ((job & kClosed) != 0 && (job & kActiveMask) == 0 && sleeping_caller_.load()) {
    MutexLock lock(&mutex_);
    wake_caller_.Signal();
  }
}

void ThreadPool::ClaimRanges(size_t thread) {
  for (size_t i = 0; i < shares_.size(); ++i) {
    const size_t share = (thread + i) % shares_.size();
    while (ClaimRange(share)) {
    }
  }
}

bool ThreadPool::ClaimRange(size_t index) {
  Share& share = shares_[index];
  int64_t begin = share.next.load(std::memory_order_relaxed);
  int64_t end = 0;
  do {
    if (begin >= share.end) return false;
    end = begin + std::max<int64_t>(1, (share.end - begin) / kRangesOfShare);
  } while (!share.next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
  (*function_)(begin * grain_, std::min(end * grain_, num_items_));
  return true;
}

void ThreadPool::AwaitWorkers() {
  const auto ready = [&] { return (job_.load() & kActiveMask) == 0; };
  if (SpinUntil(ready)) return;
  MutexLock lock(&mutex_);
  sleeping_caller_.store(true);
  while (!ready()) wake_caller_.Wait(&mutex_);
  sleeping_caller_.store(false);
}

}  // namespace m1
