#include "common/tensor/shape.h"

#include "absl/strings/str_cat.h"

namespace m1 {

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) absl::StrAppend(&text, i > 0 ? ", " : "", (*this)[i]);
  text += "]";
  return text;
}

}  // namespace m1
