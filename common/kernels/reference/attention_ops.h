// The attention operations of backend.h as plain loops: the specification of the fast versions.
// Callers hold a ScopedFlushDenormals. Contracts: KernelBackend, under the names without
// "Reference".
#pragma once

#include <span>

#include "absl/status/status.h"

#include "common/kernels/backend.h"

namespace m1 {

absl::Status ReferenceRotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                             TensorView out);
absl::Status ReferenceAppendKv(ConstTensorView k, ConstTensorView v,
                               std::span<const PagedSequence> sequences, const KvPool& pool);
absl::Status ReferenceSoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                       const KvPool& pool, TensorView out);
absl::Status ReferenceLightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                         std::span<const LightningSequence> sequences,
                                         TensorView out);

}  // namespace m1
