#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void Round(const RoundArgs& args, Range elements) {
  WithElements(args.out, 0, [&](auto* to) {
    ForSteps(elements,
             [&](int64_t i, auto step) { StoreStep(LoadStep(args.x + i, step), to + i, step); });
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
