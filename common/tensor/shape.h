// A tensor's extents, outermost first; at most kMaxRank of them, held in place.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "common/base/check.h"

namespace m1 {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  // Every extent is >= 0; untrusted extents are checked before they come here.
  Shape(std::initializer_list<int64_t> dims) {  // NOLINT(google-explicit-constructor): reads as a literal
    M1_CHECK(dims.size() <= kMaxRank);
    for (int64_t dim : dims) Append(dim);
  }

  void Append(int64_t dim) {
    M1_CHECK(rank_ < kMaxRank && dim >= 0);
    dims_[static_cast<size_t>(rank_++)] = dim;
  }

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[static_cast<size_t>(axis)]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  // "[2, 3]"
  std::string ToString() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace m1
