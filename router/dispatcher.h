// The scheduler between threads: one mutex, a clock, and the links to the workers.
//
// Sinks are called with the mutex held, in the order of events. So a sink may take its own lock
// inside, but must not hold that lock while it calls the dispatcher.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "router/scheduler.h"
#include "router/worker_link.h"

namespace m1 {

struct WorkerSnapshot {
  bool is_ready = false;
  std::optional<WorkerLimits> limits;  // absent until first reached
  int32_t num_sequences = 0;
  int64_t outstanding_tokens = 0;
  std::string last_error;      // why it was lost; empty while connected
  bool is_mismatched = false;  // its identity is not the fleet's
};

struct RouterSnapshot {
  size_t num_queued = 0;
  size_t num_running = 0;
  size_t num_in_flight = 0;
  size_t queue_capacity = 0;
  int64_t num_preempted = 0;  // since the start, with those lost with their workers
  int64_t num_lost = 0;
  int64_t num_disconnects = 0;
  bool is_draining = false;
  std::vector<WorkerSnapshot> workers;
  std::optional<FleetIdentity> identity;       // of the fleet; absent while nobody is connected
  std::optional<int64_t> max_sequence_tokens;  // as the smallest connected worker allows
};

// Thread-safe.
class Dispatcher final : public WorkerListener, private CommandSink {
 public:
  // `on_ready_change` is told whether requests can be served now, with the mutex held, at each
  // change; the state at first is false. `clock` must outlive the dispatcher.
  Dispatcher(const SchedulerOptions& options, const Clock* clock,
             std::function<void(bool)> on_ready_change);

  // The link of a worker, before it reports anything; it must live until the next call for that
  // index, and report nothing more after that but its loss. Null: no worker is there.
  void SetLink(int worker_index, WorkerLink* link);

  // Errors: ResourceExhausted (queue full), Unavailable (draining).
  absl::StatusOr<int64_t> Submit(std::shared_ptr<const GenerationRequest> request,
                                 const std::vector<std::shared_ptr<SequenceSink>>& sinks);
  absl::StatusOr<int64_t> Submit(GenerationRequest request, std::shared_ptr<SequenceSink> sink) {
    return Submit(std::make_shared<const GenerationRequest>(std::move(request)), {std::move(sink)});
  }
  // After ResourceExhausted: when to come again.
  absl::Duration AdviseRetry();
  void Cancel(int64_t id);
  bool Abort(int64_t id);
  void Resume(int64_t id);

  absl::Status OnWelcome(int worker_index, const WorkerWelcome& welcome) override;
  void OnStep(int worker_index, WorkerEvents events) override;
  void OnLost(int worker_index, const absl::Status& status) override;

  // Call a few times a second.
  void Tick();
  // Nothing is admitted any more; what was admitted goes on.
  void StopAdmission();
  void FailAll(const absl::Status& status);

  RouterSnapshot Snapshot() const;

 private:
  // By the scheduler, which is called with the mutex held.
  void Send(int worker_index, WorkerCommand command) override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void TellReadiness() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  const std::function<void(bool)> on_ready_change_;
  mutable Mutex mutex_;
  std::vector<WorkerLink*> links_ ABSL_GUARDED_BY(mutex_);
  Scheduler scheduler_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> last_errors_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> mismatched_ ABSL_GUARDED_BY(mutex_);
  int64_t num_disconnects_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool was_ready_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace m1
