#include "router/preemption_policy.h"

#include <algorithm>
#include <tuple>

namespace m1 {

std::optional<std::vector<int64_t>> ChooseVictims(int32_t priority, absl::Time head_start,
                                                  const Room& needed, Room free,
                                                  std::vector<PreemptionCandidate> running) {
  const auto give_back = [&free](const PreemptionCandidate& candidate) {
    ++free.slots;
    free.kv_blocks += candidate.kv_blocks;
  };
  for (const PreemptionCandidate& candidate : running) {
    if (candidate.is_being_preempted) give_back(candidate);
  }
  std::erase_if(running, [&](const PreemptionCandidate& candidate) {
    return candidate.is_being_preempted || candidate.priority >= priority ||
           candidate.head_start <= head_start;
  });
  std::sort(running.begin(), running.end(),
            [](const PreemptionCandidate& a, const PreemptionCandidate& b) {
              return std::tuple(a.priority, -a.arrival_order) <
                     std::tuple(b.priority, -b.arrival_order);
            });
  std::vector<int64_t> victims;
  for (const PreemptionCandidate& candidate : running) {
    if (free.Holds(needed)) break;
    give_back(candidate);
    victims.push_back(candidate.id);
  }
  if (!free.Holds(needed)) return std::nullopt;
  return victims;
}

}  // namespace m1
