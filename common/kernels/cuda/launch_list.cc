#include "common/kernels/cuda/launch_list.h"

namespace m1::cuda {

void LaunchList::Clear() {
  copy_ = {};
  launches_.clear();
  args_.clear();
  fingerprint_ = 0;
}

bool LaunchList::operator==(const LaunchList& other) const {
  return copy_ == other.copy_ &&
         std::ranges::equal(launches_, other.launches_, [&](const Launch& a, const Launch& b) {
           return a.kernel == b.kernel && a.grid == b.grid && a.equal_args(args(a), other.args(b));
         });
}

}  // namespace m1::cuda
