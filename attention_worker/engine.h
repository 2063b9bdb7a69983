// The step loop: one thread that takes commands, runs steps and hands out events. Knows no gRPC.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "attention_worker/forward_pass.h"
#include "attention_worker/lane_policy.h"
#include "attention_worker/sequence.h"
#include "attention_worker/step_policy.h"
#include "common/base/bounded_queue.h"
#include "common/base/mutex.h"
#include "common/base/watchdog.h"

namespace m1 {

// Where a client's events go. One call at a time, with a lock of the engine held: must not wait.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnStep(const StepEvents& events) = 0;
};

// Commands as in proto/m1/v1/attention.proto.
struct ContinueSequence {
  int64_t sequence_id = 0;
  int32_t pause_at_generated_count = 0;
};
struct TakeTokens {
  int64_t sequence_id = 0;
  std::vector<int32_t> token_ids;
  int32_t pause_at_generated_count = 0;
};
struct PreemptSequence {
  int64_t sequence_id = 0;
};
struct CancelSequence {
  int64_t sequence_id = 0;
};
struct ReleasePrompt {
  int64_t prompt_group = 0;
};
using SequenceCommand = std::variant<SequenceStart, ContinueSequence, TakeTokens, PreemptSequence,
                                     CancelSequence, ReleasePrompt>;

struct EngineOptions {
  StepLimits limits;
  // Steps are not started while experts are missing; after this long their sequences end with
  // Unavailable.
  absl::Duration expert_loss_timeout = absl::Seconds(60);
  LanePolicy::Mode lanes = LanePolicy::Mode::kOne;
  TraceSink* trace = nullptr;      // borrowed; a span for each step
  Heartbeat* heartbeat = nullptr;  // borrowed, the loop's; others may beat it within a step
};

// Counters since start, and leases now.
struct EngineStats {
  int64_t step_count = 0;
  int64_t mixed_step_count = 0;
  int32_t max_step_rows = 0;
  int64_t preemption_count = 0;
  int64_t prefill_token_count = 0;  // computed, of prompts and replays
  int64_t decode_token_count = 0;   // computed, the others
  int64_t computed_token_count() const { return prefill_token_count + decode_token_count; }
  int64_t fold_count = 0;  // chunks that went into lightning states, per sequence
  int64_t fork_count = 0;
  int64_t split_step_count = 0;  // with two batches in flight
  int32_t used_sequences = 0;
  int64_t used_kv_blocks = 0;
  int32_t waiting_sequences = 0;
  int32_t client_count = 0;
  bool draining = false;
};

// Thread-safe. Events of a client come in order; the sequences of a client that left are dropped.
class Engine {
 public:
  Engine(const EngineOptions& options, std::unique_ptr<ForwardPass> forward,
         ExpertExchange* exchange);
  ~Engine();

  // The id is the client's from here on; the engine holds the sink until RemoveClient was handled.
  int64_t AddClient(std::shared_ptr<EventSink> sink);
  void RemoveClient(int64_t client_id);
  // Errors: ResourceExhausted when too many commands wait.
  absl::Status Submit(int64_t client_id, SequenceCommand command);

  // The exchange reaches more or fewer experts than before. Also tells the clients when the loop
  // waits for lost ones.
  void OnExpertsChanged();
  // From the end of this step on all sequences, and those that still come, are reported as
  // preempted, for their routers to go on elsewhere; no more credits.
  void Drain();
  EngineStats stats() const;

 private:
  struct AddClientCommand {
    int64_t client_id;
    std::shared_ptr<EventSink> sink;
  };
  struct RemoveClientCommand {
    int64_t client_id;
  };
  struct ClientCommand {
    int64_t client_id;
    SequenceCommand command;
  };
  struct WakeCommand {};
  using Command = std::variant<WakeCommand, AddClientCommand, RemoveClientCommand, ClientCommand>;
  struct Client {
    StepEvents events;  // since the last delivery
    int64_t handled_start_count = 0;
  };
  struct SentCredits {
    std::shared_ptr<EventSink> sink;
    Credits credits = {};
  };
  // What the logits of a row are for.
  struct LogitPurpose {
    Sequence* sequence;
    int64_t token_index;  // the token that the row predicts
  };
  // A row of logits that the sink was given.
  struct ScoreRow {
    const LogitPurpose* purpose;
    int64_t row;
    float lse;
  };

  void Wake();
  void Loop();
  void Beat();  // the heartbeat's, if there is one
  void Rest();
  // Waits for a command (unless `poll`), then handles all that are there.
  void HandleCommands(bool poll);
  void Handle(Command& command);
  void HandleClient(int64_t client_id, Client& client, SequenceCommand& command);
  void HandleStart(int64_t client_id, Client& client, SequenceStart start);
  void HandleContinue(Sequence& sequence, const ContinueSequence& go_on);
  void HandleTakeTokens(Sequence& sequence, const TakeTokens& take);
  // False while experts are missing; ends all sequences when they were for too long.
  bool ExpertsReachable();
  void FailAll(const absl::Status& status);
  void HandOver();
  void ReportPreempted(const SequenceKey& key);

  // False when nothing could run.
  bool RunStep();
  absl::Status Prepare(const SlotPreparation& preparation);
  StepBatch MakeBatch(const StepPlan& plan, std::vector<LogitPurpose>& purposes) const;
  void AddLogitRows(Sequence& sequence, const SequenceRows& rows, StepBatch& batch,
                    std::vector<LogitPurpose>& purposes) const;
  // engine_sampling.cc
  absl::Status HandleRows(std::span<const LogitPurpose> purposes, TensorView logits,
                          std::span<const float> lse);
  absl::Status DrawTokens(std::span<const ScoreRow> rows, TensorView logits);
  absl::Status ScoreRows(std::span<const ScoreRow> rows, ConstTensorView logits);
  void ReportToken(Sequence& sequence, int64_t token_index, TokenScore score);
  // After a generated token was reported: ends or pauses the sequence, or leaves it running.
  void AfterToken(Sequence& sequence, int64_t token_index);
  void FinishStep(const StepPlan& plan, const absl::Status& status);
  // Copies the sequence's prompt where its group will find it, if the policy wants that.
  void KeepPrompt(Sequence& sequence);
  void Finish(const SequenceKey& key, FinishedSequence finished);

  void Deliver();
  void UpdateStats(const StepPlan& plan, int32_t num_lanes, int64_t num_folds);
  Client* FindClient(int64_t client_id);

  const EngineOptions options_;
  const std::unique_ptr<ForwardPass> forward_;  // loop thread
  ExpertExchange* const exchange_;
  BoundedQueue<Command> commands_;
  std::atomic<int64_t> next_client_id_ = 1;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> stopping_ = false;

  // Loop thread only.
  StepPolicy policy_;
  LanePolicy lanes_;
  std::map<int64_t, Client> clients_;
  bool ready_ = false;
  absl::Time experts_missing_since_ = absl::InfiniteFuture();

  Mutex sent_mutex_;  // held while a sink is called, so that its events stay in order
  std::map<int64_t, SentCredits> sent_ ABSL_GUARDED_BY(sent_mutex_);  // same keys as clients_

  mutable Mutex stats_mutex_;
  EngineStats stats_ ABSL_GUARDED_BY(stats_mutex_);
  std::thread thread_;  // last: joined first
};

}  // namespace m1
