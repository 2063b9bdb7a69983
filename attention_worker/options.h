// What an attention worker is told at start. main.cc fills it from flags; nobody else reads flags.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "attention_worker/lane_policy.h"
#include "attention_worker/step_policy.h"
#include "common/model/config.h"
#include "common/tensor/dtype.h"
#include "common/worker/worker_model.h"

namespace m1 {

struct AttentionWorkerOptions {
  WorkerModelOptions model;
  std::string expert_workers;         // addresses, or "inproc": all experts in this process
  int32_t max_sequences = 64;         // resident at once; each takes a state slot
  int64_t kv_bytes = 0;               // of the KV pool; 0: 1 GiB, or less where that is no use
  int64_t max_context_tokens = 0;     // prompt + answer; 0: the model's
  int32_t max_step_tokens = 1024;     // rows of a step
  int64_t max_replay_tokens = 32768;  // longer sequences are preempted last
  absl::Duration target_itl = absl::Milliseconds(100);  // see StepBudget; 0: steps are always full
  std::string batches_in_flight = "auto";               // or "1", "2": see LanePolicy
  std::string trace_file;                               // of the steps; empty: none
  absl::Duration exchange_timeout =
      absl::Seconds(10);         // an expert worker that is silent for so long is lost
  absl::Duration exchange_spin;  // looking for an answer before sleeping
  absl::Duration expert_loss_timeout =
      absl::Seconds(60);                             // sequences wait so long for lost experts
  absl::Duration drain_timeout = absl::Seconds(30);  // of the step that runs at SIGTERM
};

// Of a checked --batches_in_flight. Experts in this process compute on the same cores: auto is 1.
LanePolicy::Mode LaneMode(const AttentionWorkerOptions& options);

// Errors: InvalidArgument naming the flag, its value and the range.
absl::Status Validate(const AttentionWorkerOptions& options);

// Errors: InvalidArgument naming --max_context_tokens or --kv_bytes.
absl::StatusOr<StepLimits> Limits(const AttentionWorkerOptions& options, const ModelConfig& config,
                                  DType activation_dtype);

}  // namespace m1
