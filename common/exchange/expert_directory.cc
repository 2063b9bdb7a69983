#include "common/exchange/expert_directory.h"

#include <algorithm>

namespace m1 {

ExpertDirectory::ExpertDirectory(int32_t num_experts, absl::Time now)
    : entries_(static_cast<size_t>(num_experts), Entry{{}, now}) {}

void ExpertDirectory::Add(PeerId peer, const std::vector<int32_t>& experts) {
  for (const int32_t expert : experts) entries_[static_cast<size_t>(expert)].hosts.push_back(peer);
}

void ExpertDirectory::Remove(PeerId peer, absl::Time now) {
  for (Entry& entry : entries_) {
    const auto found = std::find(entry.hosts.begin(), entry.hosts.end(), peer);
    if (found == entry.hosts.end()) continue;
    entry.hosts.erase(found);
    if (entry.hosts.empty()) entry.missing_since = now;
  }
}

absl::Time ExpertDirectory::missing_since(int32_t expert) const {
  const Entry& entry = entries_[static_cast<size_t>(expert)];
  return entry.hosts.empty() ? entry.missing_since : absl::InfiniteFuture();
}

std::vector<int32_t> ExpertDirectory::Missing() const {
  std::vector<int32_t> missing;
  for (size_t expert = 0; expert < entries_.size(); ++expert) {
    if (entries_[expert].hosts.empty()) missing.push_back(static_cast<int32_t>(expert));
  }
  return missing;
}

}  // namespace m1
