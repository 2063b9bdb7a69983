#include "attention_worker/prompt_groups.h"

#include <algorithm>

namespace m1 {

PromptGroup* PromptGroups::Find(const PromptGroupKey& key) {
  const auto found = groups_.find(key);
  return found == groups_.end() ? nullptr : &found->second;
}

const PromptGroup* PromptGroups::Find(const PromptGroupKey& key) const {
  const auto found = groups_.find(key);
  return found == groups_.end() ? nullptr : &found->second;
}

void PromptGroups::RemoveClient(int64_t client_id) {
  std::erase_if(groups_, [&](const auto& entry) { return entry.first.client_id == client_id; });
}

std::vector<PromptGroupKey> PromptGroups::Keys() const {
  std::vector<PromptGroupKey> keys;
  for (const auto& [key, group] : groups_) keys.push_back(key);
  return keys;
}

int64_t PromptGroups::num_droppable_slots(const PromptGroup* spared) const {
  return std::count_if(groups_.begin(), groups_.end(), [&](const auto& entry) {
    return entry.second.kept && &entry.second != spared;
  });
}

int64_t PromptGroups::num_droppable_blocks(const PromptGroup* spared) const {
  int64_t count = 0;
  for (const auto& [key, group] : groups_) {
    if (&group != spared) count += NumOwnBlocks(group);
  }
  return count;
}

bool PromptGroups::DropOne(bool for_blocks, const PromptGroup* spared) {
  for (auto& [key, group] : groups_) {
    if (!group.kept || &group == spared) continue;
    if (for_blocks && NumOwnBlocks(group) == 0) continue;
    group.kept.reset();
    return true;
  }
  return false;
}

int64_t PromptGroups::NumOwnBlocks(const PromptGroup& group) const {
  if (!group.kept) return 0;
  const auto ids = group.kept->blocks.ids();
  return std::count_if(ids.begin(), ids.end(),
                       [&](int32_t id) { return blocks_->num_holders(id) == 1; });
}

}  // namespace m1
