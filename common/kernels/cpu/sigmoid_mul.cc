#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {

void SigmoidMul(const SigmoidMulArgs& args, Range elements) {
  WithElements(args.out, 0, [&](auto* to) {
    ForSteps(elements, [&](int64_t i, auto step) {
      const F32x16 gate = Sigmoid(LoadStep(args.gate + i, step));
      StoreStep(Mul(gate, LoadStep(args.x + i, step)), to + i, step);
    });
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
