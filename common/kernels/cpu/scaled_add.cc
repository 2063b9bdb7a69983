#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void ScaledAdd(const ScaledAddArgs& args, Range elements) {
  const F32x16 alpha = Set(args.alpha);
  const F32x16 beta = Set(args.beta);
  ForSteps(elements, [&](int64_t i, auto step) {
    const F32x16 scaled = Mul(alpha, LoadStep(args.x + i, step));
    StoreStep(Fma(beta, LoadStep(args.y + i, step), scaled), args.out + i, step);
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
