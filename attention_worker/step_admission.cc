// Who gets memory: by seniority, at the end of a kept prompt where there is one.
#include <algorithm>
#include <utility>

#include "attention_worker/step_policy.h"
#include "common/base/check.h"

namespace m1 {
namespace {

// Copies of kept prompts that a step makes while others wait for their next token. At full size one
// is 350 MiB.
constexpr int kMaxCopiesBesideDecoding = 2;

// One block more than the tokens need, so that a sequence can decode for a while; less only where
// the pool ends.
int64_t BlocksToAdmit(const Sequence& sequence, const StepLimits& limits) {
  return std::min(NumKvBlocks(sequence.num_tokens()) + 1, limits.kv_blocks);
}

int64_t NumFullBlocks(const KeptPrompt& kept) {
  return static_cast<int64_t>(kept.token_ids.size()) / kKvBlockTokens;
}

bool FitsIn(const KeptPrompt& kept, const Sequence& sequence) {
  return static_cast<int64_t>(kept.token_ids.size()) <= sequence.shared_tokens;
}
bool Waits(const Sequence& sequence) { return sequence.phase == SequencePhase::kWaiting; }
// Its state may be kept when it comes to the end of what is shared.
bool ComputesShared(const Sequence& sequence) {
  return sequence.holds_memory() && sequence.num_computed < sequence.shared_tokens;
}

}  // namespace

template <typename Predicate>
bool StepPolicy::AnyOf(const PromptGroupKey& key, const Predicate& is_meant) const {
  return std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& entry) {
    const Sequence& sequence = *entry.second;
    return sequence.start.prompt_group != 0 && sequence.group_key() == key && is_meant(sequence);
  });
}

template <typename Predicate>
bool StepPolicy::AnyOther(const Sequence& sequence, const Predicate& is_meant) const {
  return std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& entry) {
    const Sequence& other = *entry.second;
    return &other != &sequence && other.start.prompt_group == sequence.start.prompt_group &&
           other.key.client_id == sequence.key.client_id && is_meant(other);
  });
}

// The group whose kept prompt, or the one to come, the sequence can begin with.
PromptGroup* StepPolicy::UsableGroup(const Sequence& sequence) {
  if (!sequence.can_begin_shared()) return nullptr;
  PromptGroup* group = groups_.Find(sequence.group_key());
  if (group == nullptr || !group->kept) return group;
  const std::vector<int32_t>& kept = group->kept->token_ids;
  const bool begins_so = FitsIn(*group->kept, sequence) &&
                         std::equal(kept.begin(), kept.end(), sequence.tokens.begin());
  return begins_so ? group : nullptr;
}

void StepPolicy::Admit(StepPlan& plan) {
  const bool others_decode = AnyDecodes();
  int num_copies = 0;
  for (Sequence* sequence : InPhase(SequencePhase::kWaiting)) {
    const PromptGroup* group = UsableGroup(*sequence);
    if (group != nullptr && !group->kept && AnyOther(*sequence, ComputesShared)) continue;
    if (others_decode && num_copies >= kMaxCopiesBesideDecoding) break;
    if (!TryAdmit(*sequence, plan)) break;
    num_copies += sequence->num_computed > 0 ? 1 : 0;
    sequence->phase = SequencePhase::kResident;
    plan.admitted.push_back(sequence);
  }
  DropUnwantedPrompts();
}

bool StepPolicy::TryAdmit(Sequence& sequence, StepPlan& plan) {
  PromptGroup* group = UsableGroup(sequence);
  if (group != nullptr && group->kept) return TryFork(sequence, *group, plan);
  const int64_t num_blocks = BlocksToAdmit(sequence, limits_);
  if (!MakeRoom(sequence, 1, num_blocks, nullptr)) return false;
  M1_CHECK(sequence.slot.GrowTo(1) && sequence.blocks.GrowTo(num_blocks));
  plan.preparations.push_back({.slot = sequence.state_slot()});
  return true;
}

bool StepPolicy::TryFork(Sequence& sequence, PromptGroup& group, StepPlan& plan) {
  const int64_t num_blocks = BlocksToAdmit(sequence, limits_);
  const bool is_last = group.is_released && !AnyOther(sequence, Waits);
  if (!is_last) {
    if (MakeRoom(sequence, 1, num_blocks - NumFullBlocks(*group.kept), &group)) {
      BeginAtKept(sequence, *group.kept, num_blocks, plan);
      return true;
    }
    // One that runs will make room; without one the prompt cannot be kept any longer.
    if (AnyHoldsMemory()) return false;
  }
  if (!MakeRoom(sequence, 0, num_blocks - group.kept->blocks.size(), &group)) return false;
  sequence.num_computed = static_cast<int64_t>(group.kept->token_ids.size());
  sequence.slot = std::move(group.kept->slot);
  sequence.blocks = std::move(group.kept->blocks);
  M1_CHECK(sequence.blocks.GrowTo(num_blocks));
  group.kept.reset();
  ++num_forks_;
  return true;
}

void StepPolicy::BeginAtKept(Sequence& sequence, const KeptPrompt& kept, int64_t num_blocks,
                             StepPlan& plan) {
  const int64_t num_shared = NumFullBlocks(kept);
  sequence.num_computed = static_cast<int64_t>(kept.token_ids.size());
  sequence.blocks.Share(kept.blocks, num_shared);
  M1_CHECK(sequence.slot.GrowTo(1) && sequence.blocks.GrowTo(num_blocks));
  SlotPreparation copy{.slot = sequence.state_slot(), .from_slot = kept.slot.ids()[0]};
  if (kept.blocks.size() > num_shared) {
    copy.from_block = kept.blocks.ids()[static_cast<size_t>(num_shared)];
    copy.to_block = sequence.blocks.ids()[static_cast<size_t>(num_shared)];
  }
  plan.preparations.push_back(copy);
  ++num_forks_;
}

std::optional<SlotPreparation> StepPolicy::KeepPrompt(const Sequence& sequence) {
  if (sequence.shared_tokens == 0 || sequence.num_computed != sequence.shared_tokens) {
    return std::nullopt;
  }
  PromptGroup* group = groups_.Find(sequence.group_key());
  if (group == nullptr || (group->kept && FitsIn(*group->kept, sequence))) return std::nullopt;
  group->kept.reset();  // too long for this one; its own will do for all
  if (group->is_released && !AnyOther(sequence, Waits)) return std::nullopt;
  // Never more than half of the slots, or too few would be left to run.
  if (groups_.num_kept() >= std::max<int64_t>(1, slots_.capacity() / 2)) return std::nullopt;
  const int64_t num_full = sequence.shared_tokens / kKvBlockTokens;
  const int64_t num_blocks = NumKvBlocks(sequence.shared_tokens);
  if (slots_.num_free() < 1 || blocks_.num_free() < num_blocks - num_full) return std::nullopt;
  KeptPrompt kept{
      .token_ids = {sequence.tokens.begin(), sequence.tokens.begin() + sequence.shared_tokens},
      .client_id = sequence.key.client_id,
      .seniority = sequence.seniority(),
      .slot = Lease(&slots_),
      .blocks = Lease(&blocks_)};
  kept.blocks.Share(sequence.blocks, num_full);
  M1_CHECK(kept.slot.GrowTo(1) && kept.blocks.GrowTo(num_blocks));
  SlotPreparation copy{.slot = kept.slot.ids()[0], .from_slot = sequence.state_slot()};
  if (num_blocks > num_full) {
    copy.from_block = sequence.blocks.ids()[static_cast<size_t>(num_full)];
    copy.to_block = kept.blocks.ids()[static_cast<size_t>(num_full)];
  }
  group->kept = std::move(kept);
  return copy;
}

bool StepPolicy::AnyHoldsMemory() const {
  return std::any_of(sequences_.begin(), sequences_.end(),
                     [](const auto& entry) { return entry.second->holds_memory(); });
}

bool StepPolicy::AnyDecodes() const {
  return std::any_of(sequences_.begin(), sequences_.end(), [](const auto& entry) {
    return entry.second->phase == SequencePhase::kResident && entry.second->decodes();
  });
}

// Of different clients only priorities can be compared: each counts its own arrivals.
bool StepPolicy::MayDisplace(const Sequence& sequence, const KeptPrompt& kept) {
  if (sequence.key.client_id != kept.client_id) {
    return sequence.start.priority > kept.seniority.priority;
  }
  return sequence.seniority().IsAbove(kept.seniority);
}

bool StepPolicy::MakeRoom(const Sequence& sequence, int64_t slots, int64_t blocks,
                          const PromptGroup* spared) {
  const bool nobody_else_will = !AnyHoldsMemory();
  const auto may_go = [&](const PromptGroup& group) {
    return &group != spared && (nobody_else_will || MayDisplace(sequence, *group.kept));
  };
  if (slots_.num_free() + groups_.num_droppable_slots(may_go) < slots ||
      blocks_.num_free() + groups_.num_droppable_blocks(may_go) < blocks) {
    return false;
  }
  while (slots_.num_free() < slots) M1_CHECK(groups_.DropOne(/*for_blocks=*/false, may_go));
  while (blocks_.num_free() < blocks) M1_CHECK(groups_.DropOne(/*for_blocks=*/true, may_go));
  return true;
}

// Those that nobody waits for any more. Those of which nothing is left go in TakeLostPrompts.
void StepPolicy::DropUnwantedPrompts() {
  for (const PromptGroupKey& key : groups_.Keys()) {
    if (!groups_.Find(key)->is_released) continue;
    const auto wants = [](const Sequence& sequence) {
      return Waits(sequence) || ComputesShared(sequence);
    };
    if (!AnyOf(key, wants)) groups_.Remove(key);
  }
}

std::vector<PromptGroupKey> StepPolicy::TakeLostPrompts() {
  std::vector<PromptGroupKey> lost;
  for (const PromptGroupKey& key : groups_.Keys()) {
    PromptGroup& group = *groups_.Find(key);
    const auto will_keep = [](const Sequence& sequence) {
      return sequence.num_computed < sequence.shared_tokens;
    };
    if (group.kept || AnyOf(key, will_keep)) continue;
    if (group.is_promised && !group.is_released) lost.push_back(key);
    group.is_promised = false;
    if (!AnyOf(key, [](const Sequence& /*sequence*/) { return true; })) groups_.Remove(key);
  }
  return lost;
}

void StepPolicy::ReleaseGroup(const PromptGroupKey& key) {
  if (PromptGroup* group = groups_.Find(key)) group->is_released = true;
}

void StepPolicy::RemoveClient(int64_t client_id) {
  std::erase_if(sequences_, [&](const auto& entry) { return entry.first.client_id == client_id; });
  groups_.RemoveClient(client_id);
}

int64_t StepPolicy::BlocksToWaitFor(const Sequence& sequence) const {
  const int64_t num_blocks = BlocksToAdmit(sequence, limits_);
  if (!sequence.can_begin_shared()) return num_blocks;
  const PromptGroup* group = groups_.Find(sequence.group_key());
  if (group == nullptr) return num_blocks;
  const bool will_share =
      group->kept ? FitsIn(*group->kept, sequence) : AnyOther(sequence, ComputesShared);
  return will_share ? num_blocks - sequence.shared_tokens / kKvBlockTokens : num_blocks;
}

int64_t StepPolicy::num_grantable_slots() const {
  const int64_t kept = AnyHoldsMemory() ? 0 : groups_.num_kept();
  return std::max<int64_t>(0, slots_.num_free() + kept - num_waiting());
}

int64_t StepPolicy::num_grantable_blocks() const {
  int64_t free = blocks_.num_free();
  if (!AnyHoldsMemory()) free += groups_.num_droppable_blocks(PromptGroups::Any);
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->phase == SequencePhase::kWaiting) free -= BlocksToWaitFor(*sequence);
  }
  return std::max<int64_t>(0, free);
}

}  // namespace m1
