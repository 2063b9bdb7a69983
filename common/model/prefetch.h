// Makes mapped tensors resident ahead of their use.
#pragma once

#include <span>

#include "absl/status/status.h"

#include "common/model/parallel_load.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Touches every page of `views`, which lie in mapped files, and no other page.
// Errors: DataLoss (a page cannot be read), Cancelled (`progress` returned false).
absl::Status PrefetchPages(std::span<const ConstTensorView> views,
                           const PrefetchProgress& progress);

}  // namespace m1
