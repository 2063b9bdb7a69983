#include "attention_worker/options.h"

#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "attention_worker/kv_cache.h"
#include "attention_worker/linear_state.h"
#include "common/base/doorbell.h"
#include "common/base/flag_checks.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr int64_t kDefaultKvBytes = int64_t{1} << 30;

absl::Status CheckTimeout(absl::string_view flag, absl::Duration value) {
  if (value > absl::ZeroDuration() && value <= absl::Hours(24)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", absl::FormatDuration(value),
                                                 ", wanted more than 0 and at most 24h"));
}

std::optional<LanePolicy::Mode> ParseLaneMode(absl::string_view text) {
  if (text == "auto") return LanePolicy::Mode::kMeasured;
  if (text == "1") return LanePolicy::Mode::kOne;
  if (text == "2") return LanePolicy::Mode::kTwo;
  return std::nullopt;
}

absl::StatusOr<int64_t> ContextTokens(const AttentionWorkerOptions& options,
                                      const ModelConfig& config) {
  const int64_t most = std::min<int64_t>(config.max_context_tokens, INT32_MAX);
  if (options.max_context_tokens == 0) return most;
  if (options.max_context_tokens > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max_context_tokens is ", options.max_context_tokens, ", the model has ", most));
  }
  return options.max_context_tokens;
}

absl::StatusOr<int64_t> KvBlocks(const AttentionWorkerOptions& options, const ModelConfig& config,
                                 DType activation_dtype, int64_t context_tokens) {
  // More than every slot at full length is of no use. One block more each: see StepPolicy.
  const int64_t most =
      std::min<int64_t>(INT32_MAX, options.max_sequences * (NumKvBlocks(context_tokens) + 1));
  const int64_t block_bytes = KvCache::BlockBytes(config, activation_dtype);
  if (block_bytes == 0) return most;
  const int64_t bytes = options.kv_bytes == 0 ? kDefaultKvBytes : options.kv_bytes;
  const int64_t blocks = std::min(most, bytes / block_bytes);
  if (blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--kv_bytes is ", bytes, ", one block of ",
                                                   kKvBlockTokens, " tokens takes ", block_bytes));
  }
  return blocks;
}

// Leases are promised up front: what the machine does not have is refused now, not found out under
// load.
absl::Status CheckHostMemory(const ModelConfig& config, DType activation_dtype,
                             const StepLimits& limits) {
  const double bytes = static_cast<double>(limits.max_sequences) *
                           static_cast<double>(LinearState::SlotBytes(config, activation_dtype)) +
                       static_cast<double>(limits.kv_blocks) *
                           static_cast<double>(KvCache::BlockBytes(config, activation_dtype));
  const double machine_bytes =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  if (bytes <= machine_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "--max_sequences %d and --kv_bytes for %d blocks take %.0f MiB, the machine has %.0f MiB",
      limits.max_sequences, limits.kv_blocks, bytes / (1 << 20), machine_bytes / (1 << 20)));
}

}  // namespace

LanePolicy::Mode LaneMode(const AttentionWorkerOptions& options) {
  if (options.batches_in_flight == "auto" && options.expert_workers == "inproc") {
    return LanePolicy::Mode::kOne;
  }
  return ParseLaneMode(options.batches_in_flight).value_or(LanePolicy::Mode::kOne);
}

absl::Status Validate(const AttentionWorkerOptions& options) {
  M1_RETURN_IF_ERROR(Validate(options.model));
  if (options.expert_workers.empty()) {
    return absl::InvalidArgumentError("--expert_workers is empty, wanted addresses or \"inproc\"");
  }
  M1_RETURN_IF_ERROR(CheckFlagRange("max_sequences", options.max_sequences, 1, 65536));
  M1_RETURN_IF_ERROR(CheckFlagRange("kv_bytes", options.kv_bytes, 0, int64_t{1} << 50));
  M1_RETURN_IF_ERROR(
      CheckFlagRange("max_context_tokens", options.max_context_tokens, 0, INT32_MAX));
  M1_RETURN_IF_ERROR(CheckFlagRange("max_step_tokens", options.max_step_tokens, 1, 65536));
  M1_RETURN_IF_ERROR(CheckFlagRange("max_replay_tokens", options.max_replay_tokens, 0, INT32_MAX));
  if (options.target_itl != absl::ZeroDuration()) {
    M1_RETURN_IF_ERROR(CheckTimeout("target_itl", options.target_itl));
  }
  if (!ParseLaneMode(options.batches_in_flight)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--batches_in_flight is \"", options.batches_in_flight, "\", wanted auto, 1 or 2"));
  }
  M1_RETURN_IF_ERROR(CheckTimeout("exchange_timeout", options.exchange_timeout));
  M1_RETURN_IF_ERROR(CheckFlagRange("exchange_spin", options.exchange_spin, absl::ZeroDuration(),
                                    Doorbell::kMaxSpin));
  M1_RETURN_IF_ERROR(CheckFlagRange("drain_timeout", options.drain_timeout, absl::ZeroDuration(),
                                    absl::Hours(24)));
  return CheckTimeout("expert_loss_timeout", options.expert_loss_timeout);
}

absl::StatusOr<StepLimits> Limits(const AttentionWorkerOptions& options, const ModelConfig& config,
                                  DType activation_dtype) {
  StepLimits limits{.max_sequences = options.max_sequences,
                    .kv_blocks = 0,
                    .max_context_tokens = 0,
                    .max_step_tokens = options.max_step_tokens,
                    .max_replay_tokens = options.max_replay_tokens};
  if (options.target_itl > absl::ZeroDuration()) limits.target_itl = options.target_itl;
  M1_ASSIGN_OR_RETURN(limits.max_context_tokens, ContextTokens(options, config));
  M1_ASSIGN_OR_RETURN(limits.kv_blocks,
                      KvBlocks(options, config, activation_dtype, limits.max_context_tokens));
  if (options.model.device == "cpu") {
    M1_RETURN_IF_ERROR(CheckHostMemory(config, activation_dtype, limits));
  }
  return limits;
}

}  // namespace m1
