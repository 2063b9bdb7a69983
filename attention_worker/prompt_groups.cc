#include "attention_worker/prompt_groups.h"

#include <algorithm>

namespace m1 {

PromptGroup& PromptGroups::Open(const PromptGroupKey& key) {
  PromptGroup& group = groups_[key];
  group.is_released = false;
  group.is_promised = true;
  return group;
}

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

int64_t PromptGroups::num_droppable_slots(Filter may_go) const {
  return std::count_if(groups_.begin(), groups_.end(), [&](const auto& entry) {
    return entry.second.kept && may_go(entry.second);
  });
}

int64_t PromptGroups::num_droppable_blocks(Filter may_go) const {
  int64_t count = 0;
  for (const auto& [key, group] : groups_) {
    if (group.kept && may_go(group)) count += NumOwnBlocks(*group.kept);
  }
  return count;
}

bool PromptGroups::DropOne(bool for_blocks, Filter may_go) {
  PromptGroup* chosen = nullptr;
  for (auto& [key, group] : groups_) {
    if (!group.kept || !may_go(group)) continue;
    if (for_blocks && NumOwnBlocks(*group.kept) == 0) continue;
    if (chosen == nullptr || chosen->kept->seniority.IsAbove(group.kept->seniority)) {
      chosen = &group;
    }
  }
  if (chosen != nullptr) chosen->kept.reset();
  return chosen != nullptr;
}

int64_t PromptGroups::NumOwnBlocks(const KeptPrompt& kept) const {
  const auto ids = kept.blocks.ids();
  return std::count_if(ids.begin(), ids.end(),
                       [&](int32_t id) { return blocks_->num_holders(id) == 1; });
}

}  // namespace m1
