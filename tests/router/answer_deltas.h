// Runs tokens through an AnswerBuilder and sums up what comes out.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "router/answer.h"

namespace m1 {

inline AnswerToken Token(int32_t id) {
  return {.id = id, .logprob = 0, .rank = 1, .candidates = {}};
}

// Runs ids through a builder, one a step.
inline std::vector<AnswerDelta> RunSteps(AnswerBuilder* builder, const std::vector<int32_t>& ids) {
  std::vector<AnswerDelta> deltas;
  for (int32_t id : ids) {
    for (AnswerDelta& delta : builder->Push({Token(id)})) deltas.push_back(std::move(delta));
  }
  for (AnswerDelta& delta : builder->Finish()) deltas.push_back(std::move(delta));
  return deltas;
}

inline std::vector<int32_t> IdsOf(const std::vector<AnswerDelta>& deltas) {
  std::vector<int32_t> ids;
  for (const AnswerDelta& delta : deltas) {
    for (const AnswerToken& token : delta.tokens) ids.push_back(token.id);
  }
  return ids;
}

inline std::string TextOf(const std::vector<AnswerDelta>& deltas, OutputChannel channel) {
  std::string text;
  for (const AnswerDelta& delta : deltas) {
    if (delta.channel == channel) text += delta.text;
  }
  return text;
}

// Channel of each token, as c, r, t.
inline std::string ChannelsOf(const std::vector<AnswerDelta>& deltas) {
  std::string channels;
  for (const AnswerDelta& delta : deltas) {
    const char letter = delta.channel == OutputChannel::kContent     ? 'c'
                        : delta.channel == OutputChannel::kReasoning ? 'r'
                                                                     : 't';
    channels.append(delta.tokens.size(), letter);
  }
  return channels;
}

}  // namespace m1
