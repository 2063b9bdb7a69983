#include "attention_worker/step_policy.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"

namespace m1 {
namespace {

// Sequences that may wait for a slot, as a multiple of the slots.
constexpr int64_t kWaitingPerSlot = 8;
constexpr int32_t kMaxCandidates = 20;

// Higher priority first, then first come first served.
bool Senior(const Sequence* a, const Sequence* b) {
  if (a->seniority().IsAbove(b->seniority())) return true;
  if (b->seniority().IsAbove(a->seniority())) return false;
  return a->key < b->key;
}

// Prompts of one priority, the oldest first, share a step: half is the oldest one's, what is left
// goes to those with the fewest tokens to come, and what they leave is the oldest one's again.
std::vector<PlannedRows> ShareRows(std::vector<Sequence*> prefilling, int64_t budget) {
  std::vector<PlannedRows> shares{{prefilling.front(), 0}};
  const auto take = [&](PlannedRows& share, int64_t most) {
    const int64_t rows = std::min(most, share.sequence->num_wanted_rows() - share.num_rows);
    share.num_rows += rows;
    budget -= rows;
  };
  take(shares.front(), (budget + 1) / 2);
  std::stable_sort(prefilling.begin() + 1, prefilling.end(),
                   [](const Sequence* a, const Sequence* b) {
                     return a->num_wanted_rows() < b->num_wanted_rows();
                   });
  for (auto other = prefilling.begin() + 1; other != prefilling.end() && budget > 0; ++other) {
    take(shares.emplace_back(PlannedRows{*other, 0}), budget);
  }
  take(shares.front(), budget);
  return shares;
}

// The router checks what users send; this keeps a router of another mind from undefined behaviour.
absl::Status CheckSampling(const SequenceStart& start) {
  const SamplingParams& sampling = start.sampling;
  // Written so that NaN fails.
  if (!(sampling.temperature >= 0.0F && sampling.temperature <= 100.0F)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature ", sampling.temperature, ", wanted 0 to 100"));
  }
  if (!(sampling.top_p > 0.0F && sampling.top_p <= 1.0F)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p ", sampling.top_p, ", wanted (0, 1]"));
  }
  if (!(sampling.min_p >= 0.0F && sampling.min_p <= 1.0F)) {
    return absl::InvalidArgumentError(absl::StrCat("min_p ", sampling.min_p, ", wanted 0 to 1"));
  }
  if (!(sampling.repetition_penalty > 0.0F && sampling.repetition_penalty <= 10.0F)) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty ", sampling.repetition_penalty, ", wanted (0, 10]"));
  }
  if (!(std::abs(sampling.presence_penalty) <= 10.0F &&
        std::abs(sampling.frequency_penalty) <= 10.0F)) {
    return absl::InvalidArgumentError(
        absl::StrCat("presence_penalty ", sampling.presence_penalty, ", frequency_penalty ",
                     sampling.frequency_penalty, ", wanted -10 to 10"));
  }
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (!(std::abs(bias) <= 100.0F)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias ", bias, " of token ", id, ", wanted -100 to 100"));
    }
  }
  if (sampling.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("top_k ", sampling.top_k, " is negative"));
  }
  if (start.candidate_count < 0 || start.candidate_count > kMaxCandidates) {
    return absl::InvalidArgumentError(
        absl::StrCat("candidate_count ", start.candidate_count, ", wanted 0 to ", kMaxCandidates));
  }
  if (start.next_prompt_logprob_index < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "next_prompt_logprob_index ", start.next_prompt_logprob_index, " is negative"));
  }
  return absl::OkStatus();
}

absl::Status CheckStart(const SequenceStart& start, const StepLimits& limits) {
  if (absl::Status status = CheckSampling(start); !status.ok()) return status;
  const auto num_tokens = static_cast<int64_t>(start.token_ids.size());
  if (start.prompt_token_count < 1 || start.prompt_token_count > num_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_token_count ", start.prompt_token_count,
                                                   " of ", num_tokens, " tokens"));
  }
  if (start.generated_prompt_token_count < 0 || start.first_generated_index() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("generated_prompt_token_count ", start.generated_prompt_token_count,
                     " of a prompt of ", start.prompt_token_count, " tokens"));
  }
  if (start.max_new_tokens < 0 || start.min_new_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("max_new_tokens ", start.max_new_tokens,
                                                   " or min_new_tokens ", start.min_new_tokens,
                                                   " is negative"));
  }
  if (start.max_repetition_run < 0 || start.repetition_run < 0 ||
      start.repetition_run > num_tokens || !std::isfinite(start.repetition_logprob)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_repetition_run ", start.max_repetition_run, ", repetition_run ", start.repetition_run,
        ", repetition_logprob ", start.repetition_logprob, ", wanted counts and a finite number"));
  }
  const int64_t reach =
      std::max(num_tokens, int64_t{start.first_generated_index()} + int64_t{start.max_new_tokens});
  if (reach > limits.max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence of up to ", reach,
                                                   " tokens exceeds the worker's context of ",
                                                   limits.max_context_tokens));
  }
  if (NumKvBlocks(reach) > limits.kv_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a sequence of up to ", reach, " tokens needs ", NumKvBlocks(reach),
                     " KV blocks, the worker has ", limits.kv_blocks));
  }
  return absl::OkStatus();
}

}  // namespace

StepPolicy::StepPolicy(const StepLimits& limits)
    : limits_(limits),
      budget_(limits.target_itl, limits.max_step_tokens),
      slots_(limits.max_sequences),
      blocks_(limits.kv_blocks) {}

absl::Status StepPolicy::Add(const SequenceKey& key, SequenceStart start) {
  if (sequences_.contains(key)) {
    return absl::AlreadyExistsError(absl::StrCat("sequence ", key.sequence_id, " is running"));
  }
  if (absl::Status status = CheckStart(start, limits_); !status.ok()) return status;
  if (num_waiting() >= kWaitingPerSlot * limits_.max_sequences) {
    return absl::ResourceExhaustedError(absl::StrCat(num_waiting(), " sequences wait already"));
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->key = key;
  sequence->tokens = std::move(start.token_ids);
  sequence->next_generated_index = sequence->num_tokens();
  sequence->next_prompt_index =
      start.prompt_logprobs ? start.next_prompt_logprob_index : start.prompt_token_count;
  // A run that spans all that came after the prompt may have begun among its generated tokens.
  const bool run_may_begin_in_prompt =
      start.max_repetition_run > 0 &&
      start.repetition_run == sequence->num_tokens() - start.prompt_token_count;
  if (run_may_begin_in_prompt && start.generated_prompt_token_count > 0) {
    sequence->first_counted_index =
        start.prompt_token_count -
        std::min(start.generated_prompt_token_count, start.max_repetition_run);
  } else {
    sequence->first_counted_index = start.prompt_token_count;
    sequence->repetition_run = start.repetition_run;
  }
  sequence->pause_at_generated_count = start.pause_at_generated_count;
  if (start.prompt_group != 0) {
    // The last prompt token is each one's own: its logits are what the answers begin with. So are
    // those whose logprobs are counted.
    sequence->shared_tokens =
        std::min<int64_t>(start.prompt_token_count, sequence->first_counted_index) - 1;
    groups_.Open({key.client_id, start.prompt_group});
  }
  sequence->start = std::move(start);
  sequence->slot = Lease(&slots_);
  sequence->blocks = Lease(&blocks_);
  sequences_.emplace(key, std::move(sequence));
  return absl::OkStatus();
}

Sequence* StepPolicy::Find(const SequenceKey& key) {
  const auto found = sequences_.find(key);
  return found == sequences_.end() ? nullptr : found->second.get();
}

void StepPolicy::Remove(const SequenceKey& key) { sequences_.erase(key); }

std::vector<SequenceKey> StepPolicy::Keys() const {
  std::vector<SequenceKey> keys;
  for (const auto& [key, sequence] : sequences_) keys.push_back(key);
  return keys;
}

StepPlan StepPolicy::Plan() {
  ++step_;
  StepPlan plan;
  GrowLeases(plan);
  Admit(plan);
  TakeDecodeRows(plan);
  TakePrefillRows(plan);
  return plan;
}

int32_t StepPolicy::num_waiting() const {
  return static_cast<int32_t>(std::count_if(
      sequences_.begin(), sequences_.end(),
      [](const auto& entry) { return entry.second->phase == SequencePhase::kWaiting; }));
}

std::vector<Sequence*> StepPolicy::InPhase(SequencePhase phase) {
  std::vector<Sequence*> found;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->phase == phase) found.push_back(sequence.get());
  }
  std::sort(found.begin(), found.end(), Senior);
  return found;
}

void StepPolicy::GrowLeases(StepPlan& plan) {
  std::vector<SequenceKey> keys;
  for (const Sequence* sequence : InPhase(SequencePhase::kResident)) keys.push_back(sequence->key);
  for (const SequenceKey& key : keys) {
    Sequence* sequence = Find(key);
    if (sequence == nullptr) continue;  // it made room for an earlier one
    while (!sequence->blocks.GrowTo(NumKvBlocks(sequence->num_tokens()))) {
      if (groups_.DropOne(/*for_blocks=*/true, PromptGroups::Any)) continue;
      if (!PreemptFor(*sequence, plan)) break;
    }
  }
}

bool StepPolicy::PreemptFor(const Sequence& needy, StepPlan& plan) {
  std::vector<Sequence*> holders = InPhase(SequencePhase::kResident);
  for (Sequence* paused : InPhase(SequencePhase::kPaused)) {
    if (paused->holds_memory()) holders.push_back(paused);
  }
  std::sort(holders.begin(), holders.end(), Senior);
  holders.erase(holders.begin());  // the oldest of the highest class stays
  M1_CHECK_MSG(!holders.empty(), "one sequence alone always fits: Add checks it");
  Sequence* victim = holders.back();
  for (auto holder = holders.rbegin(); holder != holders.rend(); ++holder) {
    if ((*holder)->num_tokens() <= limits_.max_replay_tokens) {
      victim = *holder;
      break;
    }
  }
  const bool other_went = victim != &needy;
  plan.preempted.push_back(victim->key);
  Remove(plan.preempted.back());
  return other_went;
}

void StepPolicy::TakeDecodeRows(StepPlan& plan) {
  std::vector<Sequence*> decoding = InPhase(SequencePhase::kResident);
  const bool prefills =
      std::erase_if(decoding, [](const Sequence* sequence) { return !sequence->decodes(); }) > 0;
  // A budget that decoding could fill alone leaves a part to prefill, or nobody new would ever
  // begin.
  const int64_t reserve = prefills ? (limits_.max_step_tokens + 7) / 8 : 0;
  const int64_t budget = std::max<int64_t>(1, limits_.max_step_tokens - reserve);
  std::stable_sort(decoding.begin(), decoding.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_step < b->last_step;
  });
  for (Sequence* sequence : decoding) {
    if (plan.num_decode_rows >= budget) return;
    plan.rows.push_back({sequence, 1});
    sequence->last_step = step_;
    ++plan.num_decode_rows;
  }
}

void StepPolicy::TakePrefillRows(StepPlan& plan) {
  std::vector<Sequence*> prefilling = InPhase(SequencePhase::kResident);
  std::erase_if(prefilling, [](const Sequence* sequence) { return sequence->decodes(); });
  int64_t budget = budget_.PrefillRows(plan.num_decode_rows);
  for (auto first = prefilling.begin(); first != prefilling.end() && budget > 0;) {
    const auto last = std::find_if(first, prefilling.end(), [&](const Sequence* sequence) {
      return sequence->start.priority != (*first)->start.priority;
    });
    for (const PlannedRows& rows : ShareRows({first, last}, budget)) {
      plan.rows.push_back(rows);
      rows.sequence->last_step = step_;
      plan.num_prefill_rows += rows.num_rows;
      budget -= rows.num_rows;
    }
    first = last;
  }
}

}  // namespace m1
