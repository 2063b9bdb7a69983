// A fixed set of threads that share out the items of one job at a time.
// Thread-compatible: one thread calls ParallelFor. Workers run with FTZ and DAZ; the caller sees to
// its own. Between jobs they spin for some microseconds, then sleep. A job never waits for a worker
// that has not woken up by the time the others are done.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

#include "common/base/mutex.h"

namespace m1 {

class ThreadPool {
 public:
  using Function = absl::FunctionRef<void(int64_t begin, int64_t end)>;

  // `num_threads` >= 1 counts the caller: with 1 no thread is made. Unless `cores` is empty, thread
  // i is kept on cores[i]; the caller is thread 0, from its first ParallelFor on. What cannot be
  // kept there (the system took the core away) runs anywhere, and a log line says so.
  explicit ThreadPool(int num_threads, std::vector<int> cores = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(begin, end) for ranges that cover [0, num_items) once, on any of the threads, and
  // returns when all have returned. Ranges hold at least `grain` items, but for the last one; no
  // more than that run on the caller alone. A thread takes ranges that follow one another, as long
  // as nobody lags behind, so that what `f` fetches ahead of its range is of use. `f` does not
  // throw and does not call the pool.
  void ParallelFor(int64_t num_items, int64_t grain, Function f);

 private:
  // What stands in job_: the number of the job, whether it takes no more workers, and how many
  // are in it.
  static constexpr uint64_t kJobUnit = uint64_t{1} << 16;
  static constexpr uint64_t kClosed = uint64_t{1} << 15;
  static constexpr uint64_t kActiveMask = kClosed - 1;

  void Pin(size_t thread) const;
  void Work(size_t thread);
  // Joins a job other than number `last_job` and returns its number; 0 at the end.
  uint64_t JoinJob(uint64_t last_job);
  void LeaveJob();
  // Of the own share first, then of those that others have not got to.
  void ClaimRanges(size_t thread);
  bool ClaimRange(size_t share);
  void AwaitWorkers();

  const std::vector<int> cores_;
  bool is_caller_pinned_ = false;

  // Written by the caller while no worker is in a job.
  const Function* function_ = nullptr;
  int64_t num_items_ = 0;
  int64_t grain_ = 1;

  // What is left of a thread's part of the job, in grains.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;  // written with function_
  };
  std::vector<Share> shares_;

  std::atomic<uint64_t> job_{kClosed};
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_workers_{0};
  std::atomic<bool> sleeping_caller_{false};

  // Guards nothing but the sleep: whoever changes what a sleeper waits for signals under it.
  Mutex mutex_;
  CondVar wake_workers_;
  CondVar wake_caller_;

  std::vector<std::thread> workers_;
};

}  // namespace m1
