// Sequences that share a prompt: the state at its end is kept for those that are still to come.
//
// A kept prompt holds one state slot, shares the full KV blocks with the sequences that have them,
// and has a copy of the last, partial one. No bit depends on it: what comes after it is gone
// computes the prompt again. It has the seniority of the sequence that computed it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"

#include "attention_worker/lease_pool.h"

namespace m1 {

// Groups are named by whoever sent their sequences.
struct PromptGroupKey {
  int64_t client_id = 0;
  int64_t prompt_group = 0;

  friend auto operator<=>(const PromptGroupKey&, const PromptGroupKey&) = default;
};

// Who goes first: the higher priority, then who came earlier.
struct Seniority {
  int32_t priority = 0;
  int64_t arrival_order = 0;

  bool IsAbove(const Seniority& other) const {
    return priority != other.priority ? priority > other.priority
                                      : arrival_order < other.arrival_order;
  }
};

struct KeptPrompt {
  std::vector<int32_t> token_ids;  // whose state it is
  int64_t client_id = 0;
  Seniority seniority;
  Lease slot;
  Lease blocks;
};

struct PromptGroup {
  bool is_released = false;  // no more sequences of it will be sent, as far as is known
  bool is_promised = false;  // the client counts on a kept prompt
  std::optional<KeptPrompt> kept;
};

// Not thread-safe.
class PromptGroups {
 public:
  // `blocks` is the pool of the kept blocks and must outlive the groups.
  explicit PromptGroups(const LeasePool* blocks) : blocks_(blocks) {}

  // Known from here on, and not released: more of it may be sent.
  PromptGroup& Open(const PromptGroupKey& key);
  PromptGroup* Find(const PromptGroupKey& key);  // null: unknown
  const PromptGroup* Find(const PromptGroupKey& key) const;
  void Remove(const PromptGroupKey& key) { groups_.erase(key); }
  void RemoveClient(int64_t client_id);
  void Clear() { groups_.clear(); }
  std::vector<PromptGroupKey> Keys() const;
  int64_t size() const { return static_cast<int64_t>(groups_.size()); }

  // Of groups with a kept prompt.
  using Filter = absl::FunctionRef<bool(const PromptGroup& group)>;
  static bool Any(const PromptGroup& /*group*/) { return true; }
  int64_t num_kept() const { return num_droppable_slots(Any); }
  // What dropping all kept prompts that may go would set free.
  int64_t num_droppable_slots(Filter may_go) const;
  int64_t num_droppable_blocks(Filter may_go) const;
  // Drops the most junior kept prompt of those that may go, and that set a block free if
  // `for_blocks`. False: there is none.
  bool DropOne(bool for_blocks, Filter may_go);

 private:
  int64_t NumOwnBlocks(const KeptPrompt& kept) const;

  const LeasePool* const blocks_;
  std::map<PromptGroupKey, PromptGroup> groups_;
};

}  // namespace m1
