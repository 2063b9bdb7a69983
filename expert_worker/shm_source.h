// The expert worker's side of shared memory: attention workers of this host connect to an abstract
// unix socket (common/shm/handshake.h) and put dispatches into their slots; the engine's thread
// takes them from there, computes on them where they lie and writes the answers beside them. A
// thread of its own accepts connections and notices hang-ups, and is never in the way of a frame.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/doorbell.h"
#include "common/base/mutex.h"
#include "common/exchange/exchange.h"
#include "common/kernels/backend_memory.h"
#include "common/shm/handshake.h"
#include "common/shm/shared_memory.h"
#include "common/shm/slots.h"
#include "expert_worker/dispatch_limits.h"
#include "expert_worker/engine.h"

namespace m1 {

class ShmSource final : public JobSource {
 public:
  static constexpr size_t kMaxConnections = 64;

  // The executor (only its const, thread-safe part is used) and `backend`, which pins the slots for
  // its copies and may be null, outlive the source. Errors: Unavailable when the system has no
  // memfd or no abstract sockets.
  static absl::StatusOr<std::unique_ptr<ShmSource>> Create(const DispatchLimits& limits,
                                                           const ExpertExecutor* executor,
                                                           BackendMemory* backend = nullptr);
  // The engine was stopped: connections break.
  ~ShmSource() override;

  // What Describe says.
  const ShmOffer& offer() const { return offer_; }
  // No more dispatches are taken; connections end once those that were are answered.
  void Drain();
  size_t num_connections() const;

  Doorbell* doorbell() override { return &doorbell_; }
  void TakeJobs(size_t max_jobs, std::vector<EngineJob>* jobs) override;

 private:
  struct Connection;
  struct Job;
  struct Newcomer {
    UniqueFd socket;
    absl::Time since;
  };

  ShmSource(const DispatchLimits& limits, const ExpertExecutor* executor, BackendMemory* backend,
            SharedMemory doorbell);

  void Take(const std::shared_ptr<Connection>& connection, const SlotFrame& frame,
            std::vector<EngineJob>* jobs);
  // InvalidArgument for a frame that is not a dispatch this worker can run.
  absl::Status Parse(const SlotFrame& frame, FrameHeader* header, Job* job, ExpertJob* work) const;

  // The thread's.
  void Loop();
  void Accept();
  // Hears newcomers out; those that are welcome become connections.
  void GreetNewcomers();
  absl::Status Welcome(UniqueFd* socket, ShmHello hello);
  void DropDeadConnections();
  void Wake();

  const DispatchLimits limits_;
  const ExpertExecutor* const executor_;
  BackendMemory* const backend_;  // may be null
  const SharedMemory doorbell_memory_;
  Doorbell doorbell_;
  ShmOffer offer_;
  UniqueFd listener_;
  UniqueFd wake_;                    // eventfd
  std::vector<Newcomer> newcomers_;  // the thread's
  int64_t num_accepted_ = 0;         // likewise

  mutable Mutex mutex_;
  std::vector<std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  size_t first_ ABSL_GUARDED_BY(mutex_) = 0;  // whose frames are taken first, in turn
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

}  // namespace m1
