#include "attention_worker/run_messages.h"

#include <algorithm>

namespace m1 {
namespace {

std::vector<int32_t> Ids(const google::protobuf::RepeatedField<int32_t>& ids) {
  return {ids.begin(), ids.end()};
}

SequenceStart ParseStart(const v1::Start& start) {
  const v1::SequenceSampling& sampling = start.sampling();
  return {.sequence_id = start.sequence_id(),
          .token_ids = Ids(start.token_ids()),
          .prompt_token_count = start.prompt_token_count(),
          .generated_prompt_token_count = start.generated_prompt_token_count(),
          .sampling = {.temperature = sampling.temperature(),
                       .top_p = sampling.top_p(),
                       .top_k = sampling.top_k(),
                       .min_p = sampling.min_p(),
                       .seed = sampling.seed(),
                       .repetition_penalty = sampling.repetition_penalty(),
                       .presence_penalty = sampling.presence_penalty(),
                       .frequency_penalty = sampling.frequency_penalty(),
                       .logit_bias = {sampling.logit_bias().begin(), sampling.logit_bias().end()}},
          .max_new_tokens = start.limits().max_new_tokens(),
          .min_new_tokens = start.limits().min_new_tokens(),
          .stop_token_ids = Ids(start.limits().stop_token_ids()),
          .max_repetition_run = start.limits().max_repetition_run(),
          .repetition_logprob = start.limits().repetition_logprob(),
          .candidate_count = start.report().candidate_count(),
          .prompt_logprobs = start.report().prompt_logprobs(),
          .next_prompt_logprob_index = start.report().next_prompt_logprob_index(),
          .priority = start.priority(),
          .arrival_order = start.arrival_order(),
          .fed_token_ids = Ids(start.fed_token_ids()),
          .repetition_run = start.repetition_run(),
          .pause_at_generated_count = start.pause_at_generated_count(),
          .prompt_group = start.prompt_group()};
}

void FillToken(const TokenScore& score, v1::TokenResult* token) {
  token->set_id(score.id);
  token->set_logprob(score.logprob);
  token->set_rank(score.rank);
  for (const TokenCandidate& candidate : score.candidates) {
    token->add_candidate_ids(candidate.id);
    token->add_candidate_logprobs(candidate.logprob);
  }
}

v1::SequenceEnd EndOf(SequenceEnd end) {
  switch (end) {
    case SequenceEnd::kStopToken:
      return v1::SEQUENCE_END_STOP_TOKEN;
    case SequenceEnd::kLength:
      return v1::SEQUENCE_END_LENGTH;
    case SequenceEnd::kRepetition:
      return v1::SEQUENCE_END_REPETITION;
    case SequenceEnd::kCancelled:
      return v1::SEQUENCE_END_CANCELLED;
    case SequenceEnd::kError:
      return v1::SEQUENCE_END_ERROR;
  }
  return v1::SEQUENCE_END_UNSPECIFIED;
}

void FillFinished(const FinishedSequence& from, v1::Finished* finished) {
  finished->set_sequence_id(from.sequence_id);
  finished->set_end(EndOf(from.end));
  finished->set_stop_token_id(from.stop_token_id);
  if (from.end != SequenceEnd::kError) return;
  finished->set_status_code(static_cast<int32_t>(from.status.code()));
  finished->set_status_message(ToAscii(from.status.message()));
}

}  // namespace

std::string ToAscii(absl::string_view message) {
  std::string ascii(message);
  std::replace_if(
      ascii.begin(), ascii.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; },
      '?');
  return ascii;
}

absl::StatusOr<SequenceCommand> ParseCommand(v1::RunCommand& command) {
  switch (command.command_case()) {
    case v1::RunCommand::kStart:
      return ParseStart(command.start());
    case v1::RunCommand::kContinueSequence:
      return ContinueSequence{
          .sequence_id = command.continue_sequence().sequence_id(),
          .pause_at_generated_count = command.continue_sequence().pause_at_generated_count()};
    case v1::RunCommand::kTakeTokens:
      return TakeTokens{
          .sequence_id = command.take_tokens().sequence_id(),
          .token_ids = Ids(command.take_tokens().token_ids()),
          .pause_at_generated_count = command.take_tokens().pause_at_generated_count()};
    case v1::RunCommand::kPreempt:
      return PreemptSequence{.sequence_id = command.preempt().sequence_id()};
    case v1::RunCommand::kCancel:
      return CancelSequence{.sequence_id = command.cancel().sequence_id()};
    case v1::RunCommand::kReleasePrompt:
      return ReleasePrompt{.prompt_group = command.release_prompt().prompt_group()};
    case v1::RunCommand::kHello:
      return absl::InvalidArgumentError("hello was sent twice");
    case v1::RunCommand::COMMAND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a command of unknown kind");
}

v1::RunEvent StepEvent(const StepEvents& events) {
  v1::RunEvent event;
  v1::StepResult& step = *event.mutable_step();
  for (const ScoredTokens& scored : events.tokens) {
    v1::SequenceTokens* tokens = step.add_tokens();
    tokens->set_sequence_id(scored.sequence_id);
    for (const TokenScore& score : scored.tokens) FillToken(score, tokens->add_tokens());
  }
  for (const ScoredTokens& scored : events.prompt_tokens) {
    v1::PromptTokens* tokens = step.add_prompt_tokens();
    tokens->set_sequence_id(scored.sequence_id);
    tokens->set_first_index(static_cast<int32_t>(scored.first_index));
    for (const TokenScore& score : scored.tokens) FillToken(score, tokens->add_tokens());
  }
  for (const FinishedSequence& finished : events.finished) {
    FillFinished(finished, step.add_finished());
  }
  for (const int64_t id : events.preempted_sequence_ids) step.add_preempted_sequence_ids(id);
  for (const int64_t id : events.paused_sequence_ids) step.add_paused_sequence_ids(id);
  for (const int64_t group : events.lost_prompt_groups) step.add_lost_prompt_groups(group);
  v1::Credits& credits = *step.mutable_credits();
  credits.set_handled_start_count(events.credits.handled_start_count);
  credits.set_state_slots(events.credits.state_slots);
  credits.set_kv_blocks(events.credits.kv_blocks);
  credits.set_ready(events.credits.ready);
  return event;
}

}  // namespace m1
