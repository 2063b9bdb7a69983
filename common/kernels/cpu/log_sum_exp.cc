#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

float LogSumExpOf(const float* logits, int64_t vocab, float temperature) {
  const F32x16 t = Set(temperature);
  F32x16 maxima = Negate(Infinity());
  F32x16 spread = Zero();  // NaN in a lane that saw a logit that is not finite
  ForSteps({0, vocab}, [&](int64_t i, auto step) {
    const F32x16 logit = LoadStep(logits + i, step);
    spread = Add(spread, Sub(logit, logit));
    const F32x16 quotient = Padded(Div(logit, t), step, Negate(Infinity()));
    maxima = Select(Less(maxima, quotient), quotient, maxima);
  });
  float lanes[16];
  Store(maxima, lanes);
  float max = lanes[0];
  for (int j = 1; j < 16; ++j) max = lanes[j] > max ? lanes[j] : max;
  F32x16 sums = Zero();
  ForSteps({0, vocab}, [&](int64_t i, auto step) {
    const F32x16 quotient = Div(LoadStep(logits + i, step), t);
    sums = Add(sums, Padded(Exp(Sub(quotient, Set(max))), step, Zero()));
  });
  Store(Log(Set(ReduceTree(sums))), lanes);
  const float lse = max + lanes[0];
  return ReduceTree(spread) == 0.0f ? lse : __builtin_nanf("");
}

}  // namespace

void LogSumExp(const LogSumExpArgs& args, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    args.lse[row] = LogSumExpOf(args.logits + row * args.vocab, args.vocab, args.temperatures[row]);
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
