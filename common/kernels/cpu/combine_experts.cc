#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void CombineExperts(const CombineExpertsArgs& args, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* weights = args.weights + row * args.k;
    float* to = args.out + row * args.n;
    WithElements(args.y, row * args.k * args.n, [&](auto* y) {
      ForSteps({0, args.n}, [&](int64_t i, auto step) {
        F32x16 sum = Mul(Set(weights[0]), LoadStep(y + i, step));
        for (int64_t rank = 1; rank < args.k; ++rank) {
          sum = Fma(Set(weights[rank]), LoadStep(y + rank * args.n + i, step), sum);
        }
        StoreStep(sum, to + i, step);
      });
    });
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
