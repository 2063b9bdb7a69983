// The router's order of work: which request waits, which runs where, what is replayed.
//
// In the order of WorkQueue; a request is started only against a worker's credits. Where they are
// missing, running requests of lower priority make room. What a worker drops, or held when it was
// lost, goes back to the head of its class and is started again from its resume point on any worker
// of the same identity, so the reader sees one stream without gap.
// One fleet has one identity: while a worker is connected, another identity is refused.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "router/credits.h"
#include "router/placement_policy.h"
#include "router/preemption_policy.h"
#include "router/retry_advice.h"
#include "router/sequence.h"
#include "router/session_affinity.h"
#include "router/work_queue.h"
#include "router/worker_protocol.h"
#include "router/worker_state.h"

namespace m1 {

// Takes commands to the workers. Must not block, and must not call the scheduler from inside.
class CommandSink {
 public:
  virtual ~CommandSink() = default;
  virtual void Send(int worker_index, WorkerCommand command) = 0;
};

struct SchedulerOptions {
  // What tokens say, for requests with a thinking limit; must outlive the scheduler.
  const TokenPieces* pieces = nullptr;
  int num_workers = 0;
  int queue_size = 1024;
  // What a point of priority is worth against waiting.
  absl::Duration priority_ageing = absl::Minutes(1);
  // How long a request waits while no worker could run it.
  absl::Duration worker_loss_timeout = absl::Seconds(60);
};

// Plain policy: not thread-safe, no clock, no I/O. A sample's id is its arrival order; those of a
// request are consecutive. Each is a sequence of its own, started and replayed by itself.
class Scheduler {
 public:
  // `commands` must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, CommandSink* commands);

  // --- From clients ---

  // A request with request->sample_count samples, which go to the sinks; returns the first one's
  // id. It needs one place in the queue. Errors: ResourceExhausted when the queue is full.
  absl::StatusOr<int64_t> Submit(std::shared_ptr<const GenerationRequest> request,
                                 const std::vector<std::shared_ptr<SequenceSink>>& sinks,
                                 absl::Time now);
  // A request with one sample.
  absl::StatusOr<int64_t> Submit(GenerationRequest request, std::shared_ptr<SequenceSink> sink,
                                 absl::Time now) {
    return Submit(std::make_shared<const GenerationRequest>(std::move(request)), {std::move(sink)},
                  now);
  }
  // When a request that was refused for a full queue should come again.
  absl::Duration AdviseRetry(absl::Time now) { return retry_advice_.Advise(now); }
  // The reader is gone: nothing more is delivered. No effect when the request is over.
  void Cancel(int64_t id);
  // Ends the request with kCancelled; false when it is over.
  bool Abort(int64_t id, absl::Time now);
  // After a sink answered kIsFull: it can take more now.
  void Resume(int64_t id, absl::Time now);

  // --- From workers ---

  // Another worker will have this index: one past the last, or that of a lost worker.
  void AddWorker(int worker_index);

  // Errors: FailedPrecondition when its identity differs from that of the fleet.
  absl::Status OnWelcome(int worker_index, const WorkerWelcome& welcome, absl::Time now);
  void OnStep(int worker_index, WorkerEvents events, absl::Time now);
  void OnLost(int worker_index, absl::Time now);

  // Time passes: ends what waited too long. Call a few times a second.
  void Tick(absl::Time now);
  // Ends every request with `status`.
  void FailAll(const absl::Status& status);

  // --- State ---

  size_t num_queued() const { return queue_.size(); }
  size_t num_in_flight() const { return sequences_.size(); }
  size_t num_running() const;
  // Samples that were put back to be computed again: preempted, or lost with their worker.
  int64_t num_preempted() const { return num_preempted_; }
  int64_t num_lost() const { return num_lost_; }
  size_t queue_capacity() const { return queue_.capacity(); }
  const WorkerState& worker(int index) const { return workers_[static_cast<size_t>(index)]; }
  int num_workers() const { return static_cast<int>(workers_.size()); }
  bool any_worker_ready() const;
  // Of a connected worker; absent when there is none.
  std::optional<FleetIdentity> fleet_identity() const;
  // The most tokens that one sequence may reach on every connected worker; absent when there is
  // none.
  std::optional<int64_t> max_sequence_tokens() const;

 private:
  RoutedSequence* Find(int64_t id);
  std::vector<int64_t> Ids() const;  // ascending
  RoutedSequence* FindRunning(int worker_index, int64_t worker_sequence_id);

  void DispatchWaiting(absl::Time now);
  // Its reader has enough: it waits for that and no longer for a worker.
  bool ParkedForReader(RoutedSequence* sequence);
  // Ends a request that is past its client's deadline.
  bool FailedAtDeadline(RoutedSequence* sequence, absl::Time now);
  bool FailedAtQueueTimeout(RoutedSequence* sequence, absl::Time now);
  // The answer's bound as the connected workers' contexts allow, those aside that have no room for
  // the prompt and one token more.
  int32_t BoundAtArrival(const GenerationRequest& request) const;
  // What a worker must hold to get the sequence. Before the first start: prompt and whole answer,
  // or, if no ready worker holds so much, as much as lets it begin. From the first start on its end
  // is fixed, and only who can take it there may have it.
  int64_t TokensToHold(const RoutedSequence& sequence) const;
  Placement Place(const RoutedSequence& sequence) const;
  // Whether a ready worker may run it, now or later.
  bool AnyEligible(const RoutedSequence& sequence) const;
  bool IsEligible(const RoutedSequence& sequence, const WorkerState& worker, int64_t reach) const;
  std::optional<int> PreferredWorker(const RoutedSequence& sequence) const;
  // KV blocks that the worker is to have free; fewer where it may keep the prompt.
  int64_t BlocksToStart(int worker_index, const RoutedSequence& sequence) const;
  void SetState(RoutedSequence* sequence, SequenceState state);
  // Tells the workers that know of the group, when nobody wants its prompt any more.
  void ReleaseUnwanted(const SampleGroup& group);
  void StartOn(int worker_index, RoutedSequence* sequence, absl::Time now);
  // Has running sequences of lower priority preempted for one that waits for credits, if any can.
  void MakeRoom(const RoutedSequence& sequence);
  void DropPrompt(int worker_index, int64_t group_id);
  // Their ids on the worker; below zero, those of prompt groups whose prompts it drops.
  std::optional<std::vector<int64_t>> VictimsOn(int worker_index,
                                                const RoutedSequence& sequence) const;
  std::vector<PreemptionCandidate> CandidatesOn(int worker_index,
                                                const RoutedSequence& sequence) const;

  // False: the sink is full.
  bool DeliverPromptTokens(int worker_index, PromptTokensEvent scored, absl::Time now);
  bool DeliverTokens(int worker_index, TokensEvent event, absl::Time now);
  // After new output: the worker's next pause is lifted, or is where the thought may end.
  void MovePause(RoutedSequence* sequence);
  void HandlePaused(int worker_index, int64_t worker_sequence_id);
  void HandleFinished(int worker_index, const FinishedEvent& finished, absl::Time now);
  // Back to the queue, or to its end if nothing was left to do.
  void Requeue(RoutedSequence* sequence, absl::Time now);
  // The same, unless its workers are lost again and again.
  void RequeueAfterLoss(RoutedSequence* sequence, absl::Time now);
  // Takes a running sequence off its worker.
  void Detach(RoutedSequence* sequence);
  void CancelOnWorker(RoutedSequence* sequence);
  void Finish(RoutedSequence* sequence, AnswerEnd end, int32_t stop_token_id, absl::Time now);
  // Ends the request: its sink learns why, the other samples are dropped without a word.
  void Fail(RoutedSequence* sequence, const absl::Status& status);
  void Erase(RoutedSequence* sequence);

  const SchedulerOptions options_;
  CommandSink* const commands_;
  std::vector<WorkerState> workers_;
  WorkQueue queue_;
  RetryAdvice retry_advice_;
  SessionAffinity sessions_;
  absl::flat_hash_map<int64_t, std::unique_ptr<RoutedSequence>> sequences_;
  int64_t next_arrival_order_ = 1;
  int64_t num_preempted_ = 0;
  int64_t num_lost_ = 0;
};

}  // namespace m1
