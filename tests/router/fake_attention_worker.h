// An attention worker without a model: answers Run along attention.proto with tokens that depend on
// the tokens before and the seed alone, so a replay from any resume point must give the same ones.
// It pauses and is fed where it is told, and it can hold its steps, preempt, stop answering and
// die.
#pragma once

#include <grpcpp/server.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "m1/v1/attention.grpc.pb.h"

namespace m1 {

struct FakeWorkerOptions {
  int port = 0;
  int32_t max_sequences = 64;
  int64_t kv_blocks = 10000;
  int64_t max_context_tokens = 8192;
  std::string fingerprint = std::string(64, 'a');
  bool is_ready = true;
  absl::Duration step_time = absl::Milliseconds(1);
  // Prompt tokens scored in one step.
  int32_t prompt_chunk_tokens = 1 << 20;
  // The whole answer to a start, without what was emitted already; absent: FakeNextToken.
  std::function<std::vector<int32_t>(const v1::Start&)> script = nullptr;
  // Of the error that ends a script which is too short. Not UTF-8: an event that cannot be parsed.
  std::string error_message = "non-finite logits";
};

// The token after `token_ids`: in 0..255.
int32_t FakeNextToken(const std::vector<int32_t>& token_ids, uint64_t seed);
// What a client must see: the next `count` tokens after `prompt`.
std::vector<int32_t> FakeAnswer(std::vector<int32_t> prompt, uint64_t seed, int count);
float FakeLogprob(int32_t id);

// Thread-safe.
class FakeAttentionWorker final : public v1::AttentionWorker::Service {
 public:
  explicit FakeAttentionWorker(FakeWorkerOptions options = {});
  ~FakeAttentionWorker() override;

  std::string address() const;
  int port() const { return port_; }

  // Ends the server and all streams, as if the process had died.
  void Die();
  // No step runs while held.
  void HoldSteps(bool held);
  // Drops all sequences at the next step and reports them.
  void PreemptAll();
  // Reports every sequence as paused at the next step; each goes on after Continue.
  void PauseAll();
  void SetReady(bool ready);

  std::vector<v1::Start> starts() const;
  int num_starts() const;
  int num_cancels() const;
  int num_continues() const;
  int num_takes() const;
  // Sequences that it holds now, of all streams.
  int num_sequences() const;

  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeAttentionRequest* request,
                        v1::DescribeAttentionResponse* response) override;
  grpc::Status Run(grpc::ServerContext* context,
                   grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* stream) override;

 private:
  struct FakeSequence;
  struct FakeStream;

  void ReadCommands(grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* reader,
                    FakeStream* state);
  void Apply(const v1::RunCommand& command, FakeStream* state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fills what one step brings; false when nothing happened.
  bool Step(FakeStream* state, v1::StepResult* step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StepSequence(FakeSequence* sequence, v1::StepResult* step);
  // The sequence's next token; none: its script is too short.
  std::optional<int32_t> NextToken(FakeSequence* sequence);
  v1::Credits MakeCredits(const FakeStream& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::WorkerIdentity MakeIdentity() const;
  v1::WorkerLimits MakeLimits() const;

  const FakeWorkerOptions options_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool is_dead_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_held_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_ready_ ABSL_GUARDED_BY(mutex_);
  bool tells_credits_ ABSL_GUARDED_BY(mutex_) = false;
  int preempt_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  int pause_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::Start> starts_ ABSL_GUARDED_BY(mutex_);
  int num_starts_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_cancels_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_continues_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_takes_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_sequences_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace m1
