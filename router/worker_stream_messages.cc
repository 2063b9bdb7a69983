#include "router/worker_stream_messages.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace m1 {
namespace {

void Fill(const StartCommand& start, v1::Start* proto) {
  proto->set_sequence_id(start.sequence_id);
  proto->mutable_token_ids()->Add(start.token_ids.begin(), start.token_ids.end());
  proto->set_prompt_token_count(start.prompt_token_count);
  proto->set_generated_prompt_token_count(start.generated_prompt_token_count);
  v1::SequenceSampling* sampling = proto->mutable_sampling();
  sampling->set_temperature(start.sampling.temperature);
  sampling->set_top_p(start.sampling.top_p);
  sampling->set_top_k(start.sampling.top_k);
  sampling->set_min_p(start.sampling.min_p);
  sampling->set_seed(start.sampling.seed);
  sampling->set_repetition_penalty(start.sampling.repetition_penalty);
  sampling->set_presence_penalty(start.sampling.presence_penalty);
  sampling->set_frequency_penalty(start.sampling.frequency_penalty);
  sampling->mutable_logit_bias()->insert(start.sampling.logit_bias.begin(),
                                         start.sampling.logit_bias.end());
  v1::SequenceLimits* limits = proto->mutable_limits();
  limits->set_max_new_tokens(start.max_new_tokens);
  limits->set_min_new_tokens(start.min_new_tokens);
  limits->mutable_stop_token_ids()->Add(start.stop_token_ids.begin(), start.stop_token_ids.end());
  limits->set_max_repetition_run(start.repetition.max_run);
  limits->set_repetition_logprob(start.repetition.logprob);
  v1::SequenceReport* report = proto->mutable_report();
  report->set_candidate_count(start.candidate_count);
  report->set_prompt_logprobs(start.prompt_logprobs);
  report->set_next_prompt_logprob_index(start.next_prompt_logprob_index);
  proto->set_priority(start.priority);
  proto->set_arrival_order(start.arrival_order);
  proto->set_repetition_run(start.repetition_run);
  proto->set_prompt_group(start.prompt_group);
  proto->set_pause_at_generated_count(start.pause_at_generated_count);
  proto->mutable_fed_token_ids()->Add(start.fed_token_ids.begin(), start.fed_token_ids.end());
}

std::vector<AnswerToken> FromProto(
    const google::protobuf::RepeatedPtrField<v1::TokenResult>& tokens) {
  std::vector<AnswerToken> read;
  read.reserve(static_cast<size_t>(tokens.size()));
  for (const v1::TokenResult& token : tokens) {
    AnswerToken& to = read.emplace_back();
    to.id = token.id();
    to.logprob = token.logprob();
    to.rank = token.rank();
    const int num_candidates =
        std::min(token.candidate_ids_size(), token.candidate_logprobs_size());
    to.candidates.reserve(static_cast<size_t>(num_candidates));
    for (int i = 0; i < num_candidates; ++i) {
      to.candidates.push_back({token.candidate_ids(i), token.candidate_logprobs(i)});
    }
  }
  return read;
}

AnswerEnd FromProto(v1::SequenceEnd end) {
  switch (end) {
    case v1::SEQUENCE_END_STOP_TOKEN:
      return AnswerEnd::kStopToken;
    case v1::SEQUENCE_END_LENGTH:
      return AnswerEnd::kLength;
    case v1::SEQUENCE_END_CANCELLED:
      return AnswerEnd::kCancelled;
    case v1::SEQUENCE_END_REPETITION:
      return AnswerEnd::kRepetition;
    default:
      return AnswerEnd::kError;
  }
}

WorkerCredits FromProto(const v1::Credits& credits) {
  return {.handled_start_count = credits.handled_start_count(),
          .state_slots = credits.state_slots(),
          .kv_blocks = credits.kv_blocks(),
          .ready = credits.ready()};
}

}  // namespace

v1::RunCommand ToProto(const WorkerCommand& command) {
  v1::RunCommand proto;
  if (const auto* start = std::get_if<StartCommand>(&command)) {
    Fill(*start, proto.mutable_start());
  } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
    proto.mutable_cancel()->set_sequence_id(cancel->sequence_id);
  } else if (const auto* preempt = std::get_if<PreemptCommand>(&command)) {
    proto.mutable_preempt()->set_sequence_id(preempt->sequence_id);
  } else if (const auto* go_on = std::get_if<ContinueCommand>(&command)) {
    proto.mutable_continue_sequence()->set_sequence_id(go_on->sequence_id);
    proto.mutable_continue_sequence()->set_pause_at_generated_count(
        go_on->pause_at_generated_count);
  } else if (const auto* release = std::get_if<ReleasePromptCommand>(&command)) {
    proto.mutable_release_prompt()->set_prompt_group(release->prompt_group);
  } else {
    const auto& take = std::get<TakeTokensCommand>(command);
    v1::TakeTokens* tokens = proto.mutable_take_tokens();
    tokens->set_sequence_id(take.sequence_id);
    tokens->mutable_token_ids()->Add(take.token_ids.begin(), take.token_ids.end());
    tokens->set_pause_at_generated_count(take.pause_at_generated_count);
  }
  return proto;
}

WorkerWelcome FromProto(const v1::Welcome& welcome) {
  WorkerWelcome read;
  const v1::WorkerIdentity& identity = welcome.identity();
  read.identity = {.fingerprint = identity.fingerprint(),
                   .weight_format = identity.weight_format(),
                   .activation_dtype = identity.activation_dtype(),
                   .device_kind = identity.device_kind(),
                   .numerics_revision = identity.numerics_revision(),
                   .protocol_revision = identity.protocol_revision()};
  read.limits = {.max_sequences = welcome.limits().max_sequences(),
                 .kv_blocks = welcome.limits().kv_blocks(),
                 .max_context_tokens = welcome.limits().max_context_tokens(),
                 .max_step_tokens = welcome.limits().max_step_tokens()};
  read.credits = FromProto(welcome.credits());
  return read;
}

WorkerEvents FromProto(const v1::StepResult& step) {
  WorkerEvents events;
  for (const v1::SequenceTokens& tokens : step.tokens()) {
    events.tokens.push_back({tokens.sequence_id(), FromProto(tokens.tokens())});
  }
  for (const v1::PromptTokens& tokens : step.prompt_tokens()) {
    events.prompt_tokens.push_back(
        {tokens.sequence_id(), tokens.first_index(), FromProto(tokens.tokens())});
  }
  for (const v1::Finished& finished : step.finished()) {
    events.finished.push_back({.sequence_id = finished.sequence_id(),
                               .end = FromProto(finished.end()),
                               .stop_token_id = finished.stop_token_id(),
                               .status_code = finished.status_code(),
                               .status_message = finished.status_message()});
  }
  events.preempted_sequence_ids.assign(step.preempted_sequence_ids().begin(),
                                       step.preempted_sequence_ids().end());
  events.paused_sequence_ids.assign(step.paused_sequence_ids().begin(),
                                    step.paused_sequence_ids().end());
  events.lost_prompt_groups.assign(step.lost_prompt_groups().begin(),
                                   step.lost_prompt_groups().end());
  events.credits = FromProto(step.credits());
  return events;
}

v1::WorkerLimits ToProto(const WorkerLimits& limits) {
  v1::WorkerLimits proto;
  proto.set_max_sequences(limits.max_sequences);
  proto.set_kv_blocks(limits.kv_blocks);
  proto.set_max_context_tokens(limits.max_context_tokens);
  proto.set_max_step_tokens(limits.max_step_tokens);
  return proto;
}

}  // namespace m1
