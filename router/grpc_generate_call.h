// One call of Generate: takes the samples of the answer from the dispatcher, writes them to the
// client as fast as the client reads, and frees the sequences when the client is gone.
//
// Locks: the dispatcher calls the sinks' functions with its mutex held, so mutex_ is never held
// while the dispatcher is called. The registry may be called with mutex_ held.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/security/security.h"
#include "m1/v1/inference.pb.h"
#include "router/call_registry.h"
#include "router/dispatcher.h"
#include "router/grpc_metrics.h"
#include "router/grpc_sample_answer.h"
#include "router/reader_pacing.h"
#include "router/sequence.h"

namespace m1 {

struct GenerateCallContext {
  Dispatcher* dispatcher = nullptr;
  CallRegistry* registry = nullptr;
  const TokenPieces* pieces = nullptr;
  const Clock* clock = nullptr;
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  RouterMetrics* metrics = nullptr;    // null: nothing is counted
  const Security* security = nullptr;  // null: no tokens
};

// Owned by itself until gRPC is done with it, by the registry, and by the scheduler's sequences.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public LiveCall,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(const GenerateCallContext& context, grpc::CallbackServerContext* server_context);

  // The call lives at least until OnDone. Call once, before gRPC hears of it.
  void KeepUntilDone() { self_ = shared_from_this(); }
  // Ends the call before anything was accepted.
  void Refuse(const absl::Status& status);
  // Registers, submits and from then on answers. Call one of the two, once, from any thread; the
  // client may be gone already.
  void Begin(GenerationRequest request);

  // ServerWriteReactor
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // As of SequenceSink, for a sample. The first failure of a sample is the call's.
  SinkState OnStarting(int sample);
  void OnStarted(int sample, absl::Time now);
  SinkState OnPromptTokens(int sample, int32_t first_index, std::vector<AnswerToken> tokens);
  SinkState OnTokens(int sample, std::vector<AnswerToken> tokens, absl::Time now);
  void OnFinished(int sample, AnswerEnd end, int32_t stop_token_id, absl::Time now);
  void OnFailed(const absl::Status& status);

  // LiveCall
  void Abort() override;
  void CheckReader(absl::Time now) override;

 private:
  absl::StatusOr<int64_t> Register();
  v1::GenerateResponse MakeResponse(int sample) const;
  SampleAnswer& AnswerOf(int sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return samples_[static_cast<size_t>(sample)];
  }
  void EnqueuePrompt(int sample, v1::Prompt prompt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnqueueDeltas(int sample, const std::vector<AnswerDelta>& deltas)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(const v1::GenerateResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first messages, which are made when there is room for them.
  void EnqueueNextPromptIds() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts what can be started: the next write, or the end.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing more is written; the call ends with `status` now.
  void EndNow(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The end is decided: another call may take the id.
  void ReleaseId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SinkState ReaderState(int sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The sequences to resume, now that more was read.
  std::vector<int64_t> TakeResumed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing is computed for the call.
  void CountRefusal(const absl::Status& status);
  // Tokens of a sample whose last one came at `last`. With metrics.
  void CountTokens(std::optional<absl::Time> last, int64_t count, absl::Time now);
  void FreeSequences();
  void AbortSequences(int64_t first_id);

  const GenerateCallContext context_;
  grpc::CallbackServerContext* const server_context_;  // valid until OnDone
  const absl::Time arrival_time_;
  const std::string client_;            // who calls
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  // Constant after Begin. Owned by the sequences and the samples, too.
  std::shared_ptr<const GenerationRequest> request_;

  Mutex mutex_;
  std::deque<SampleAnswer> samples_ ABSL_GUARDED_BY(mutex_);
  int num_unfinished_ ABSL_GUARDED_BY(mutex_) = 0;  // samples
  v1::FinishReason last_reason_ ABSL_GUARDED_BY(mutex_) = v1::FINISH_REASON_UNSPECIFIED;
  // Once accepted. The ids of the samples' sequences are consecutive.
  std::optional<int64_t> first_id_ ABSL_GUARDED_BY(mutex_);
  bool is_registered_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_cancelled_ ABSL_GUARDED_BY(mutex_) = false;  // by the client, or by its silence
  bool is_aborted_ ABSL_GUARDED_BY(mutex_) = false;
  // Only OnWriteDone resumes what it parked: later output of the same step comes while the
  // scheduler already means to park the sequence.
  ReaderPacing pacing_ ABSL_GUARDED_BY(mutex_);
  bool is_done_ ABSL_GUARDED_BY(mutex_) = false;  // server_context_ is gone

  size_t next_prompt_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool sent_prompt_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<grpc::ByteBuffer> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ByteBuffer written_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it while a write is under way
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time write_started_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // after what waits was written
  bool called_finish_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace m1
