// What the router's policy needs of a vocabulary.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace m1 {

// Ids may be any number.
class TokenPieces {
 public:
  virtual ~TokenPieces() = default;
  virtual absl::string_view Bytes(int32_t id) const = 0;  // empty for unknown ids
  virtual bool IsSpecial(int32_t id) const = 0;           // shows no text in an answer
};

}  // namespace m1
