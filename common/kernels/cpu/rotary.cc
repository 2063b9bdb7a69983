#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {

void Rotary(const RotaryArgs& args, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* cos = args.cos + row * args.half;
    const float* sin = args.sin + row * args.half;
    for (int64_t head = 0; head < args.heads; ++head) {
      const int64_t offset = (row * args.heads + head) * args.head_dim;
      const float* x = args.x + offset;
      WithElements(args.out, offset, [&](auto* to) {
        ForSteps({0, args.half}, [&](int64_t i, auto step) {
          const F32x16 c = LoadStep(cos + i, step);
          const F32x16 s = LoadStep(sin + i, step);
          const F32x16 a = LoadStep(x + i, step);
          const F32x16 b = LoadStep(x + i + args.half, step);
          StoreStep(Fma(Negate(b), s, Mul(a, c)), to + i, step);
          StoreStep(Fma(a, s, Mul(b, c)), to + i + args.half, step);
        });
        ForSteps({2 * args.half, args.head_dim},
                 [&](int64_t i, auto step) { StoreStep(LoadStep(x + i, step), to + i, step); });
      });
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
