// DrawTokens and ScoreTokens as plain loops and sorts: the specification of the fast versions.
// Callers validated the arguments (validate.h) and hold a ScopedFlushDenormals.
#pragma once

#include <span>

#include "common/kernels/sampling.h"

namespace m1 {

int32_t ReferenceDrawToken(std::span<const float> logits, const TokenDraw& draw);
TokenScore ReferenceScoreToken(std::span<const float> logits, const ScoreRequest& request);

}  // namespace m1
