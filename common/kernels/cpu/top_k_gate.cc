#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// p = softmax(logits), n <= kMaxGateExperts.
void Softmax(const float* logits, int64_t n, float* p) {
  float max = -__builtin_inff();
  for (int64_t i = 0; i < n; ++i) max = logits[i] > max ? logits[i] : max;
  ForSteps({0, n}, [&](int64_t i, auto step) {
    StoreStep(Exp(Sub(LoadStep(logits + i, step), Set(max))), p + i, step);
  });
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) sum = sum + p[i];
  ForSteps({0, n}, [&](int64_t i, auto step) {
    StoreStep(Div(LoadStep(p + i, step), Set(sum)), p + i, step);
  });
}

}  // namespace

void TopKGate(const TopKGateArgs& args, Range rows) {
  float p[kMaxGateExperts];
  bool taken[kMaxGateExperts];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    Softmax(args.logits + row * args.experts, args.experts, p);
    for (int64_t i = 0; i < args.experts; ++i) taken[i] = false;
    int32_t* ids = args.ids + row * args.k;
    float* weights = args.weights + row * args.k;
    float total = 0.0f;
    for (int64_t rank = 0; rank < args.k; ++rank) {
      int64_t best = -1;
      for (int64_t i = 0; i < args.experts; ++i) {
        if (!taken[i] && (best < 0 || p[i] > p[best])) best = i;
      }
      taken[best] = true;
      ids[rank] = static_cast<int32_t>(best);
      weights[rank] = p[best];
      total = total + p[best];
    }
    for (int64_t rank = 0; rank < args.k; ++rank) weights[rank] = weights[rank] / total;
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
