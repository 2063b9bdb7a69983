// Byte-pair merging: of all neighbours that may merge, the pair of the lowest rank does, the
// leftmost first, until none is left.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace m1 {

// Immutable once filled, then thread-safe.
class BpeMerges {
 public:
  // byte_ids[b] is the token of byte b.
  explicit BpeMerges(const std::array<int32_t, 256>& byte_ids) : byte_ids_(byte_ids) {}

  // Adds the merge of the next rank. False if the pair has one already. Ids are not negative.
  bool Add(int32_t left, int32_t right, int32_t result);

  // Appends the tokens of `piece`. O(n log n) in its length.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  static constexpr int32_t kNoMerge = INT32_MAX;

  int32_t Rank(int32_t left, int32_t right) const;
  void EncodeShort(std::string_view piece, std::vector<int32_t>* ids) const;
  void EncodeLong(std::string_view piece, std::vector<int32_t>* ids) const;

  std::array<int32_t, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, int32_t> ranks_;  // left << 32 | right -> rank
  std::vector<int32_t> results_;                  // of each rank
};

}  // namespace m1
