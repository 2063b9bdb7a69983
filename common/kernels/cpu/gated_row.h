// What ends a gated product: out = silu(gate) * up, for one row of a block of sums.
#pragma once

#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {

// `out` from its element `offset` on; gate, up [n].
inline void StoreGated(const float* gate, const float* up, int64_t n, const ActOut& out,
                       int64_t offset) {
  WithElements(out, offset, [&](auto* to) {
    ForSteps({0, n}, [&](int64_t i, auto step) {
      const F32x16 activated = Silu(LoadStep(gate + i, step));
      StoreStep(Mul(activated, LoadStep(up + i, step)), to + i, step);
    });
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
