// One answer: results are compared bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/support/local_model.h"

namespace m1 {

inline void ExpectSameTokens(const std::vector<TokenScore>& a, const std::vector<TokenScore>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "token " << i);
    ASSERT_EQ(a[i].id, b[i].id);
    ASSERT_EQ(std::memcmp(&a[i].logprob, &b[i].logprob, sizeof(float)), 0)
        << a[i].logprob << " " << b[i].logprob;
    ASSERT_EQ(a[i].rank, b[i].rank);
    ASSERT_EQ(a[i].candidates.size(), b[i].candidates.size());
    for (size_t c = 0; c < a[i].candidates.size(); ++c) {
      ASSERT_EQ(a[i].candidates[c].id, b[i].candidates[c].id);
      ASSERT_EQ(a[i].candidates[c].logprob, b[i].candidates[c].logprob);
    }
  }
}

inline void ExpectSame(const std::vector<SequenceResult>& a, const std::vector<SequenceResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    ExpectSameTokens(a[i].prompt, b[i].prompt);
    ExpectSameTokens(a[i].tokens, b[i].tokens);
    EXPECT_EQ(a[i].finished->end, b[i].finished->end);
  }
}

}  // namespace m1
