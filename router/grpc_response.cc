#include "router/grpc_response.h"

namespace m1 {
namespace {

// For the message around the tokens: ids, counts, lengths.
constexpr int64_t kReservedBytes = 4096;

v1::Channel ToProto(OutputChannel channel) {
  switch (channel) {
    case OutputChannel::kContent:
      return v1::CHANNEL_CONTENT;
    case OutputChannel::kReasoning:
      return v1::CHANNEL_REASONING;
    case OutputChannel::kToolCall:
      break;
  }
  return v1::CHANNEL_TOOL_CALL;
}

}  // namespace

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  const int64_t seconds = absl::IDivDuration(duration, absl::Seconds(1), &duration);
  proto.set_seconds(seconds);
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

v1::Token ToProto(const AnswerToken& token, const TokenPieces& pieces) {
  v1::Token proto;
  proto.set_id(token.id);
  const absl::string_view bytes = pieces.Bytes(token.id);
  proto.set_bytes(bytes.data(), bytes.size());
  proto.set_logprob(token.logprob);
  proto.set_rank(token.rank);
  for (const AnswerCandidate& candidate : token.candidates) {
    v1::Candidate* to = proto.add_candidates();
    to->set_id(candidate.id);
    to->set_logprob(candidate.logprob);
  }
  return proto;
}

v1::Delta ToProto(const AnswerDelta& delta, const TokenPieces& pieces) {
  v1::Delta proto;
  proto.set_text(delta.text);
  proto.set_channel(ToProto(delta.channel));
  for (const AnswerToken& token : delta.tokens) *proto.add_tokens() = ToProto(token, pieces);
  if (delta.tool_call) {
    proto.mutable_tool_call()->set_name(delta.tool_call->name);
    proto.mutable_tool_call()->set_arguments_json(delta.tool_call->arguments_json);
  }
  return proto;
}

std::vector<v1::Prompt> ToPromptMessages(int32_t first_index,
                                         const std::vector<AnswerToken>& tokens,
                                         const TokenPieces& pieces) {
  std::vector<v1::Prompt> messages;
  int64_t num_bytes = 0;
  for (const AnswerToken& token : tokens) {
    v1::Token proto = ToProto(token, pieces);
    // Tag and length before the token.
    const int64_t size = static_cast<int64_t>(proto.ByteSizeLong()) + 6;
    if (messages.empty() || num_bytes + size > kMaxPromptMessageBytes - kReservedBytes) {
      messages.emplace_back().set_first_index(first_index);
      num_bytes = 0;
    }
    num_bytes += size;
    *messages.back().add_tokens() = std::move(proto);
    ++first_index;
  }
  return messages;
}

}  // namespace m1
