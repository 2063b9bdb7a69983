#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {

void SharedExpertMix(const SharedExpertMixArgs& args, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const F32x16 c = Sigmoid(Set(args.coefficient_logit[row]));
    const F32x16 rest = Sub(Set(1.0f), c);
    ForSteps({row * args.n, (row + 1) * args.n}, [&](int64_t i, auto step) {
      const F32x16 moe = Mul(LoadStep(args.moe + i, step), rest);
      StoreStep(Fma(LoadStep(args.shared + i, step), c, moe), args.out + i, step);
    });
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
