// Makes mapped tensors resident ahead of their use.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"

#include "common/tensor/tensor_view.h"

namespace m1 {

// Called after every few megabytes with the bytes done and those of the whole job; false stops it.
using PrefetchProgress = std::function<bool(int64_t done_bytes, int64_t total_bytes)>;

// Touches every page of `views`, which lie in mapped files, and no other page.
// Errors: DataLoss (a page cannot be read), Cancelled (`progress` returned false).
absl::Status PrefetchPages(std::span<const ConstTensorView> views,
                           const PrefetchProgress& progress);

}  // namespace m1
