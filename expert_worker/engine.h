// One thread that runs expert jobs of all clients on one device. Jobs of one layer that wait at the
// same time run together; while several clients are active, it waits shortly for those that have
// no job here yet, since their steps tend to meet. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"

#include "common/base/bounded_queue.h"
#include "common/base/doorbell.h"
#include "common/base/trace.h"
#include "common/base/watchdog.h"
#include "common/exchange/exchange.h"

namespace m1 {

struct EngineJob {
  int64_t client = 0;  // who sent it: any number that is the sender's own
  ExpertJob work;  // valid by ExpertExecutor::ValidateJob; its views live until `done` was called
  absl::AnyInvocable<void(const absl::Status&) &&> done;  // called once, on the engine's thread
};

// Where jobs come from besides TrySubmit, fetched by the engine's thread itself.
class JobSource {
 public:
  virtual ~JobSource() = default;
  // Where the engine waits. Rung when there is something to take.
  virtual Doorbell* doorbell() = 0;
  // Appends what is there now, at most max_jobs. On the engine's thread.
  virtual void TakeJobs(size_t max_jobs, std::vector<EngineJob>* jobs) = 0;
};

struct EngineOptions {
  size_t max_queued_jobs = 256;
  // Rows that run together at most; a single job may be larger.
  int64_t max_run_rows = 4096;
  // How long the first job waits for those of other active clients.
  absl::Duration gather_time = absl::Microseconds(100);
  // A client is active for so long after its last job.
  absl::Duration active_time = absl::Milliseconds(100);
  // How long to look for the next job before sleeping; at most Doorbell::kMaxSpin.
  absl::Duration spin = absl::ZeroDuration();
  TraceSink* trace = nullptr;      // a span for each run; outlives the engine
  Heartbeat* heartbeat = nullptr;  // the thread's; outlives the engine
};

// Counters since start.
struct EngineStats {
  int64_t num_jobs = 0;
  int64_t num_runs = 0;
  int64_t num_rows = 0;
  int64_t num_source_jobs = 0;  // of the jobs, from the source
};

class Engine {
 public:
  // `executor` and `source` outlive the engine; the executor is called by its thread only.
  Engine(ExpertExecutor* executor, const EngineOptions& options, JobSource* source = nullptr);
  // As Stop.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // False when the queue is full or the engine stops: the caller answers ResourceExhausted.
  bool TrySubmit(EngineJob&& job);
  EngineStats stats() const;
  // Refuses new jobs, runs those that wait, ends the thread.
  void Stop();

 private:
  void Loop();
  // The heartbeat's, if there is one.
  void Beat();
  void Rest();
  // Adds what waits in the queue and the source to pending_.
  void Take();
  // The same, and what comes within gather_time.
  void Gather();
  void AddPending(EngineJob job);
  // True when every active client has a job in pending_.
  bool AllActiveArePending();
  // Takes the jobs that run with the oldest one out of pending_.
  std::vector<EngineJob> TakeRun();
  void Run(std::vector<EngineJob> run);

  ExpertExecutor* const executor_;
  const EngineOptions options_;
  JobSource* const source_;  // may be null
  BoundedQueue<EngineJob> queue_;
  std::atomic<bool> stopping_ = false;
  DoorbellWords own_doorbell_words_;
  Doorbell own_doorbell_;
  Doorbell* const doorbell_;                      // rung for both
  std::vector<EngineJob> taken_;                  // the thread's own
  std::vector<EngineJob> pending_;                // oldest first; the thread's own
  std::map<int64_t, absl::Time> active_clients_;  // when each sent its last job; the thread's own
  std::atomic<int64_t> num_jobs_ = 0;
  std::atomic<int64_t> num_runs_ = 0;
  std::atomic<int64_t> num_rows_ = 0;
  std::atomic<int64_t> num_source_jobs_ = 0;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace m1
