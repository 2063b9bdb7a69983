#include "expert_worker/options.h"

#include <numeric>

#include "absl/strings/str_cat.h"

#include "common/base/doorbell.h"
#include "common/base/flag_checks.h"
#include "common/base/status_macros.h"
#include "common/model/placement.h"

namespace m1 {

absl::Status Validate(const ExpertWorkerOptions& options) {
  M1_RETURN_IF_ERROR(Validate(options.model));
  if (options.address.empty()) return absl::InvalidArgumentError("--address is empty");
  if (!options.experts.empty() && !options.shard.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--experts is \"", options.experts,
                                                   "\" and --shard is \"", options.shard,
                                                   "\", wanted one of them at most"));
  }
  M1_RETURN_IF_ERROR(CheckFlagRange("exchange_spin", options.exchange_spin, absl::ZeroDuration(),
                                    Doorbell::kMaxSpin));
  return CheckFlagRange("port", options.port, 0, 65535);
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

}  // namespace m1
