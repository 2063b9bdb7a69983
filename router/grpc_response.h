// What the router answers, as protocol buffers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "m1/v1/inference.pb.h"
#include "router/answer.h"
#include "router/worker_protocol.h"

namespace m1 {

// No message of prompt ids or prompt tokens is larger.
inline constexpr int64_t kMaxPromptMessageBytes = 1 << 20;
// A vocabulary id takes at most five bytes, so this many ids stay well below the limit.
inline constexpr size_t kPromptIdsPerMessage = 150000;

google::protobuf::Duration ToProto(absl::Duration duration);

v1::Token ToProto(const AnswerToken& token, const TokenPieces& pieces);

v1::Delta ToProto(const AnswerDelta& delta, const TokenPieces& pieces);

// Prompt tokens from `first_index` on, in as many messages as it takes; only first_index and tokens
// are set.
std::vector<v1::Prompt> ToPromptMessages(int32_t first_index,
                                         const std::vector<AnswerToken>& tokens,
                                         const TokenPieces& pieces);

}  // namespace m1
