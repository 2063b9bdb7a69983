#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void RmsNorm(const RmsNormArgs& args, Range rows) {
  WithElements(args.weight, 0, [&](auto* weight) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const float* x = args.x + row * args.n;
      float* to = args.out + row * args.n;
      const float mean = DotForm(x, x, args.n) / static_cast<float>(args.n);
      const F32x16 scale = Div(Set(1.0f), Sqrt(Set(mean + args.eps)));
      ForSteps({0, args.n}, [&](int64_t i, auto step) {
        const F32x16 normed = Mul(LoadStep(x + i, step), scale);
        StoreStep(Mul(LoadStep(weight + i, step), normed), to + i, step);
      });
    }
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
