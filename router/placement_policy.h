// Which worker starts a sequence: of those that can take it now, the one with the fewest tokens
// outstanding, then the first; or the one that served its session last, as long as that has at most
// kAffinitySlackTokens more outstanding.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace m1 {

inline constexpr int64_t kAffinitySlackTokens = 65536;

// One worker as the policy sees it.
struct PlacementCandidate {
  bool is_eligible = false;  // ready, and of an identity that may run the sequence
  bool can_hold = false;     // the sequence fits the worker when it is empty
  bool has_credits = false;  // the sequence can be started now
  int64_t outstanding_tokens = 0;
};

struct Placement {
  bool any_eligible = false;
  bool any_can_hold = false;        // among the eligible
  std::optional<int> worker_index;  // into the candidates; absent: nobody can start it now
};

// `preferred`: of the session.
Placement ChooseWorker(const std::vector<PlacementCandidate>& candidates,
                       std::optional<int> preferred = std::nullopt);

}  // namespace m1
