// GenerateRequest checked and turned into plain C++.
//
// Order of a call: CheckRanges, which finds every field outside its range; the prompt is encoded
// and its length checked; ReadRequest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "m1/v1/inference.pb.h"
#include "router/grpc_violations.h"
#include "router/request.h"

namespace m1 {

// All ranges but those of `chat` (grpc_chat.h) and the prompt's length.
void CheckRanges(const v1::GenerateRequest& request, int32_t vocab_size, Violations* violations);

// The field by which the caller gave the prompt: "text", "token_ids.ids", "chat.messages".
const char* PromptField(const v1::GenerateRequest& request);

// What is fed when the budget is used up.
std::string ClosingText(const v1::Thinking& thinking);

// Everything but prompt_ids and thinking, of a request that passed the checks. The seed is left 0
// when absent.
GenerationRequest ReadRequest(const v1::GenerateRequest& request,
                              const std::vector<int32_t>& eos_token_ids);

absl::Duration FromProto(const google::protobuf::Duration& duration);

// `field[i]` must be in [0, vocab_size).
template <typename Ids>
void CheckIds(const Ids& ids, const char* field, int32_t vocab_size, Violations* violations) {
  for (int i = 0; i < ids.size() && !violations->full(); ++i) {
    const int32_t id = ids[i];
    if (id >= 0 && id < vocab_size) continue;
    violations->Add(absl::StrCat(field, "[", i, "]"),
                    absl::StrCat("is ", id, ", must be in [0, ", vocab_size, ")"));
  }
}

}  // namespace m1
