// What the engine does with rows of logits: draws tokens, scores and reports them, finds their
// ends.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "attention_worker/engine.h"
#include "attention_worker/philox.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

// Of the token that follows those of the sequence.
TokenDraw MakeDraw(Sequence& sequence, int64_t row) {
  const SamplingParams& sampling = sequence.start.sampling;
  if (!sequence.editor) sequence.editor.emplace(sequence.start);
  return {.row = row,
          .edits = sequence.editor->Next(sequence.tokens),
          .temperature = sampling.temperature,
          .top_k = sampling.top_k,
          .top_p = sampling.top_p,
          .min_p = sampling.min_p,
          .uniform = PhiloxUniform(sampling.seed, static_cast<uint64_t>(sequence.num_tokens()))};
}

}  // namespace

absl::Status Engine::HandleRows(std::span<const LogitPurpose> purposes, TensorView logits,
                                std::span<const float> lse) {
  const ScopedSpan span(options_.trace,
                        {.name = "sampling", .track = 1, .rows = static_cast<int64_t>(lse.size())});
  std::vector<ScoreRow> known;
  std::vector<ScoreRow> next;
  for (size_t row = 0; row < purposes.size(); ++row) {
    const LogitPurpose& purpose = purposes[row];
    Sequence& sequence = *purpose.sequence;
    if (!std::isfinite(lse[row]) && !sequence.end) {
      sequence.end =
          FailedSequence(sequence.key.sequence_id,
                         absl::InternalError(absl::StrCat("the logits for token ",
                                                          purpose.token_index, " are not finite")));
    }
    const bool is_known = purpose.token_index < sequence.num_tokens();
    (is_known ? known : next).push_back({&purpose, static_cast<int64_t>(row), lse[row]});
  }
  // What is known may be the end already, when the next token is not drawn.
  M1_RETURN_IF_ERROR(ScoreRows(known, logits));
  M1_RETURN_IF_ERROR(DrawTokens(next, logits));
  return ScoreRows(next, logits);
}

absl::Status Engine::DrawTokens(std::span<const ScoreRow> rows, TensorView logits) {
  std::vector<TokenDraw> draws;
  std::vector<Sequence*> drawing;
  for (const ScoreRow& row : rows) {
    Sequence& sequence = *row.purpose->sequence;
    if (sequence.end) continue;
    draws.push_back(MakeDraw(sequence, row.row));
    drawing.push_back(&sequence);
  }
  std::vector<int32_t> ids(draws.size());
  M1_RETURN_IF_ERROR(forward_->backend()->DrawTokens(logits, draws, ids));
  for (size_t i = 0; i < ids.size(); ++i) drawing[i]->tokens.push_back(ids[i]);
  return absl::OkStatus();
}

absl::Status Engine::ScoreRows(std::span<const ScoreRow> rows, ConstTensorView logits) {
  std::vector<ScoreRequest> requests;
  std::vector<const LogitPurpose*> purposes;
  for (const ScoreRow& row : rows) {
    const Sequence& sequence = *row.purpose->sequence;
    if (sequence.end) continue;
    purposes.push_back(row.purpose);
    requests.push_back({.row = row.row,
                        .id = sequence.tokens[static_cast<size_t>(row.purpose->token_index)],
                        .temperature = sequence.start.sampling.logprob_temperature(),
                        .lse = row.lse,
                        .candidate_count = sequence.start.candidate_count});
  }
  std::vector<TokenScore> scores(requests.size());
  M1_RETURN_IF_ERROR(forward_->backend()->ScoreTokens(logits, requests, scores));
  for (size_t i = 0; i < scores.size(); ++i) {
    ReportToken(*purposes[i]->sequence, purposes[i]->token_index, std::move(scores[i]));
  }
  return absl::OkStatus();
}

void Engine::ReportToken(Sequence& sequence, int64_t token_index, TokenScore score) {
  if (sequence.end) return;  // by a row before
  Client* client = FindClient(sequence.key.client_id);
  if (client == nullptr) return;
  const float logprob = score.logprob;
  const bool of_prompt = token_index < sequence.start.prompt_token_count;
  const bool is_told = !of_prompt || sequence.wants_prompt_token(token_index);
  if (is_told) {
    std::vector<ScoredTokens>& lists =
        of_prompt ? client->events.prompt_tokens : client->events.tokens;
    const int64_t sequence_id = sequence.key.sequence_id;
    if (lists.empty() || lists.back().sequence_id != sequence_id) {
      lists.push_back({.sequence_id = sequence_id, .first_index = token_index, .tokens = {}});
    }
    lists.back().tokens.push_back(std::move(score));
    (of_prompt ? sequence.next_prompt_index : sequence.next_generated_index) = token_index + 1;
  }
  sequence.CountForRepetition(token_index, logprob);
  // All but the newest of the tokens that are known end the sequence by repetition only.
  const bool is_newest = !of_prompt && token_index + 1 == sequence.num_tokens();
  if (is_newest || sequence.repeats_too_long()) AfterToken(sequence, token_index);
}

void Engine::AfterToken(Sequence& sequence, int64_t token_index) {
  const int64_t sequence_id = sequence.key.sequence_id;
  if (sequence.ends_at(token_index)) {
    sequence.end =
        FinishedSequence{.sequence_id = sequence_id,
                         .end = SequenceEnd::kStopToken,
                         .stop_token_id = sequence.tokens[static_cast<size_t>(token_index)],
                         .status = absl::OkStatus()};
  } else if (sequence.repeats_too_long()) {
    sequence.end = FinishedSequence{.sequence_id = sequence_id, .end = SequenceEnd::kRepetition};
  } else if (sequence.num_generated() >= sequence.start.max_new_tokens) {
    sequence.end = FinishedSequence{.sequence_id = sequence_id, .end = SequenceEnd::kLength};
  } else if (sequence.pause_at_generated_count > 0 &&
             sequence.num_generated() >= sequence.pause_at_generated_count) {
    sequence.phase = SequencePhase::kPaused;
  }
}

}  // namespace m1
