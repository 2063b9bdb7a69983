#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void Embed(const EmbedArgs& args, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    float* to = args.out + row * args.n;
    WithElements(args.table, args.ids[row] * args.n, [&](auto* from) {
      ForSteps({0, args.n},
               [&](int64_t i, auto step) { StoreStep(LoadStep(from + i, step), to + i, step); });
    });
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
