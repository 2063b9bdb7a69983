#include "expert_worker/options.h"

#include <numeric>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/placement.h"

namespace m1 {
namespace {

absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, ", wanted ", least, " to ", most));
}

}  // namespace

absl::Status Validate(const ExpertWorkerOptions& options) {
  if (options.model.empty()) {
    return absl::InvalidArgumentError("--model is empty, wanted a checkpoint directory");
  }
  if (options.address.empty()) return absl::InvalidArgumentError("--address is empty");
  if (!options.experts.empty() && !options.shard.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--experts is \"", options.experts,
                                                   "\" and --shard is \"", options.shard,
                                                   "\", wanted one of them at most"));
  }
  M1_RETURN_IF_ERROR(CheckRange("port", options.port, 0, 65535));
  M1_RETURN_IF_ERROR(CheckRange("threads", options.threads, 0, 1024));
  const std::string& dtype = options.activation_dtype;
  if (dtype != "auto" && dtype != "bf16" && dtype != "fp32") {
    return absl::InvalidArgumentError(
        absl::StrCat("--activation_dtype is \"", dtype, "\", wanted auto, bf16 or fp32"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> HostedExperts(const ExpertWorkerOptions& options,
                                                   int32_t num_experts) {
  absl::StatusOr<std::vector<int32_t>> experts;
  absl::string_view flag;
  if (!options.experts.empty()) {
    flag = "--experts";
    experts = ParseExpertList(options.experts, num_experts);
  } else if (!options.shard.empty()) {
    flag = "--shard";
    experts = ParseShard(options.shard, num_experts);
  } else {
    experts.emplace(static_cast<size_t>(num_experts));
    std::iota(experts->begin(), experts->end(), 0);
  }
  if (!experts.ok()) return AddContext(experts.status(), flag);
  return experts;
}

DType ActivationDType(const ExpertWorkerOptions& options, const ModelConfig& config) {
  if (options.activation_dtype == "bf16") return DType::kBf16;
  if (options.activation_dtype == "fp32") return DType::kF32;
  return config.weights_dtype == DType::kBf16 ? DType::kBf16 : DType::kF32;
}

}  // namespace m1
