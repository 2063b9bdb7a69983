#include "router/grpc_sample_answer.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "router/grpc_response.h"
#include "router/sample_group.h"

namespace m1 {
namespace {

v1::FinishReason ReasonOf(AnswerEnd end) {
  switch (end) {
    case AnswerEnd::kStopToken:
    case AnswerEnd::kStopString:
      return v1::FINISH_REASON_STOP;
    case AnswerEnd::kLength:
      return v1::FINISH_REASON_LENGTH;
    case AnswerEnd::kRepetition:
      return v1::FINISH_REASON_REPETITION;
    case AnswerEnd::kCancelled:
    case AnswerEnd::kError:
      break;
  }
  return v1::FINISH_REASON_CANCELLED;
}

}  // namespace

SampleAnswer::SampleAnswer(std::shared_ptr<const GenerationRequest> request, int index,
                           const TokenPieces* pieces, absl::Time arrival_time)
    : request_(std::move(request)),
      seed_(SampleSeed(request_->sampling.seed, index)),
      arrival_time_(arrival_time),
      builder_(pieces, {.is_chat = request_->is_chat,
                        .tools_enabled = request_->tools_enabled,
                        .stop_token_ids = request_->stop_token_ids,
                        .stop_strings = request_->stop_strings,
                        .include_stop_text = request_->include_stop_text,
                        .min_new_tokens = request_->min_new_tokens}) {
  builder_.GoOnAfter(std::span(request_->prompt_ids)
                         .last(static_cast<size_t>(request_->generated_prompt_token_count)));
}

std::vector<AnswerDelta> SampleAnswer::Push(std::vector<AnswerToken> tokens, absl::Time now) {
  if (!first_token_) first_token_ = now;
  last_token_ = now;
  return builder_.Push(std::move(tokens));
}

std::vector<AnswerDelta> SampleAnswer::End() { return builder_.Finish(); }

v1::Finish SampleAnswer::MakeFinish(AnswerEnd end, int32_t stop_token_id, absl::Time now) const {
  v1::Finish finish;
  finish.set_reason(ReasonOf(end));
  if (finish.reason() == v1::FINISH_REASON_CANCELLED && now >= request_->deadline) {
    finish.set_reason(v1::FINISH_REASON_DEADLINE);  // aborted when nobody waits any more
  }
  if (const std::optional<std::string>& stop_string = builder_.matched_stop_string()) {
    finish.set_reason(v1::FINISH_REASON_STOP);
    finish.set_stop_string(*stop_string);
  } else if (end == AnswerEnd::kStopToken) {
    const std::vector<int32_t>& eos = request_->eos_token_ids;
    const bool is_eos = std::find(eos.begin(), eos.end(), stop_token_id) != eos.end();
    if (is_eos && builder_.num_tool_calls() > 0) {
      finish.set_reason(v1::FINISH_REASON_TOOL_CALLS);
    } else {
      finish.set_stop_token_id(stop_token_id);
    }
  }
  v1::Usage* usage = finish.mutable_usage();
  usage->set_prompt_token_count(static_cast<int32_t>(request_->prompt_ids.size()));
  usage->set_completion_token_count(builder_.num_tokens());
  usage->set_reasoning_token_count(builder_.num_reasoning_tokens());
  v1::Timing* timing = finish.mutable_timing();
  *timing->mutable_queued() = ToProto(started_.value_or(now) - arrival_time_);
  if (first_token_) {
    *timing->mutable_time_to_first_token() = ToProto(*first_token_ - arrival_time_);
  }
  *timing->mutable_total() = ToProto(now - arrival_time_);
  return finish;
}

}  // namespace m1
