// Of timings: what lasts, where single ones are lucky or disturbed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace m1 {

// The upper one of the middle values; `values` is not empty.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace m1
