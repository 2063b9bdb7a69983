// What launches of grouped products share: how many groups one takes, of which outputs.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "absl/status/status.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/operands.h"

namespace m1::cuda {

// launch(part) for parts of at most kMaxProductGroups.
template <typename T, typename Launch>
absl::Status ForParts(std::span<const T> items, Launch launch) {
  for (size_t first = 0; first < items.size(); first += kMaxProductGroups) {
    const size_t count = std::min(items.size() - first, size_t{kMaxProductGroups});
    M1_RETURN_IF_ERROR(launch(items.subspan(first, count)));
  }
  return absl::OkStatus();
}

inline std::vector<LinearProduct> WithOutput(std::span<const LinearProduct> products, DType out) {
  std::vector<LinearProduct> chosen;
  for (const LinearProduct& product : products) {
    if (product.out.dtype() == out) chosen.push_back(product);
  }
  return chosen;
}

inline OutType OutTypeOf(DType out) { return out == DType::kF32 ? OutType::kF32 : OutType::kBf16; }

inline ProductEpilogue EpilogueOf(Epilogue epilogue) {
  return epilogue == Epilogue::kSilu ? ProductEpilogue::kSilu : ProductEpilogue::kNone;
}

}  // namespace m1::cuda
