// Copies mapped tensors into memory of large pages, where they stand. Linux maps files in pages of
// 4 KiB: walking their tables costs decoding, which reads every weight once a step, a tenth of its
// speed (5 GB checkpoint, 2 threads, one stream: 70 % of the read bandwidth; copied 80 %).
#pragma once

#include <span>

#include "absl/status/status.h"

#include "common/model/prefetch.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Replaces the pages of `views`, which lie in mapped files, by private copies at the same
// addresses; pages that neighbours share are copied whole. The views stay valid, also while this
// runs. Takes as much memory as the views have; what the page cache holds of the files beside it
// can be dropped by the system. After an error some views are copied and the rest are as before.
// Errors: those of PrefetchPages; ResourceExhausted (the system gives no memory).
absl::Status CopyPages(std::span<const ConstTensorView> views, const PrefetchProgress& progress);

}  // namespace m1
