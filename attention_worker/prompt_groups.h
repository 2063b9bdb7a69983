// Sequences that share a prompt: the state at its end is kept for those that are still to come.
//
// A kept prompt holds one state slot, shares the full KV blocks with the sequences that have them,
// and has a copy of the last, partial one. Nothing depends on it but time: it may go whenever its
// memory is wanted, and what comes then computes the prompt again, to the same bits.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "attention_worker/lease_pool.h"

namespace m1 {

// Groups are named by whoever sent their sequences.
struct PromptGroupKey {
  int64_t client_id = 0;
  int64_t prompt_group = 0;

  friend auto operator<=>(const PromptGroupKey&, const PromptGroupKey&) = default;
};

struct KeptPrompt {
  std::vector<int32_t> token_ids;  // whose state it is
  Lease slot;
  Lease blocks;
};

struct PromptGroup {
  bool is_released = false;  // no more sequences of it will be sent
  std::optional<KeptPrompt> kept;
};

// Not thread-safe.
class PromptGroups {
 public:
  // `blocks` is the pool of the kept blocks and must outlive the groups.
  explicit PromptGroups(const LeasePool* blocks) : blocks_(blocks) {}

  PromptGroup& Open(const PromptGroupKey& key) { return groups_[key]; }
  PromptGroup* Find(const PromptGroupKey& key);  // null: unknown
  const PromptGroup* Find(const PromptGroupKey& key) const;
  void Remove(const PromptGroupKey& key) { groups_.erase(key); }
  void RemoveClient(int64_t client_id);
  void Clear() { groups_.clear(); }
  std::vector<PromptGroupKey> Keys() const;

  // What dropping all kept prompts but that of `spared` would set free.
  int64_t num_droppable_slots(const PromptGroup* spared = nullptr) const;
  int64_t num_droppable_blocks(const PromptGroup* spared = nullptr) const;
  // Drops the kept prompt of the first group but `spared`, in the order of keys, of those that set
  // a block free if `for_blocks`. False: there is none.
  bool DropOne(bool for_blocks, const PromptGroup* spared = nullptr);

 private:
  int64_t NumOwnBlocks(const PromptGroup& group) const;

  const LeasePool* const blocks_;
  std::map<PromptGroupKey, PromptGroup> groups_;
};

}  // namespace m1
