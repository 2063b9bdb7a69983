#include "router/placement_policy.h"

#include <cstddef>

namespace m1 {

Placement ChooseWorker(const std::vector<PlacementCandidate>& candidates,
                       std::optional<int> preferred) {
  Placement placement;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const PlacementCandidate& candidate = candidates[i];
    if (!candidate.is_eligible) continue;
    placement.any_eligible = true;
    if (!candidate.can_hold) continue;
    placement.any_can_hold = true;
    if (!candidate.has_credits) continue;
    if (!placement.worker_index ||
        candidate.outstanding_tokens <
            candidates[static_cast<size_t>(*placement.worker_index)].outstanding_tokens) {
      placement.worker_index = static_cast<int>(i);
    }
  }
  if (!placement.worker_index || !preferred) return placement;
  const auto at = [&candidates](int index) -> const PlacementCandidate& {
    return candidates[static_cast<size_t>(index)];
  };
  const PlacementCandidate& own = at(*preferred);
  const int64_t least = at(*placement.worker_index).outstanding_tokens;
  if (own.is_eligible && own.can_hold && own.has_credits &&
      own.outstanding_tokens <= least + kAffinitySlackTokens) {
    placement.worker_index = preferred;
  }
  return placement;
}

}  // namespace m1
