// Which connected peers host which expert, and since when an expert has no host. Thread-compatible.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace m1 {

using PeerId = int64_t;

class ExpertDirectory {
 public:
  // Every expert in [0, num_experts) is missing since `now`.
  ExpertDirectory(int32_t num_experts, absl::Time now);

  // `experts` lie in [0, num_experts). A peer is added once and removed before it is added again.
  void Add(PeerId peer, const std::vector<int32_t>& experts);
  // Does nothing for a peer that was not added.
  void Remove(PeerId peer, absl::Time now);

  int32_t num_experts() const { return static_cast<int32_t>(entries_.size()); }
  // In the order in which they were added.
  const std::vector<PeerId>& hosts(int32_t expert) const {
    return entries_[static_cast<size_t>(expert)].hosts;
  }
  // InfiniteFuture while it has a host.
  absl::Time missing_since(int32_t expert) const;
  std::vector<int32_t> Missing() const;

 private:
  struct Entry {
    std::vector<PeerId> hosts;
    absl::Time missing_since;
  };
  std::vector<Entry> entries_;  // [num_experts]
};

}  // namespace m1
