// The bytes of every token, by id; and the ids of pieces that are one token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace m1 {

// Filled by Set and AddWholePiece, then immutable and thread-safe.
class TokenTable {
 public:
  // Ids run from 0 to size - 1.
  explicit TokenTable(int32_t size) : entries_(static_cast<size_t>(size)) {}
  TokenTable(TokenTable&&) = default;
  TokenTable& operator=(TokenTable&&) = default;

  // `bytes` is not empty. False if `id` has a token already.
  bool Set(int32_t id, std::string_view bytes) {
    if (Has(id)) return false;
    entries_[static_cast<size_t>(id)] = {static_cast<uint32_t>(bytes_.size()),
                                         static_cast<uint32_t>(bytes.size())};
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return true;
  }

  bool Has(int32_t id) const { return id >= 0 && id < size() && Entry(id).num_bytes != 0; }
  std::string_view Bytes(int32_t id) const {
    if (!Has(id)) return {};
    return std::string_view(bytes_.data() + Entry(id).begin, Entry(id).num_bytes);
  }
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }

  // Text that is exactly the bytes of `id` encodes to it. After the last Set.
  void AddWholePiece(int32_t id) {
    const std::string_view bytes = Bytes(id);
    whole_pieces_.emplace(absl::string_view(bytes.data(), bytes.size()), id);
  }

  // The token that is the whole of `piece`; -1 if merges must tell.
  int32_t FindWholePiece(std::string_view piece) const {
    const auto it = whole_pieces_.find(absl::string_view(piece.data(), piece.size()));
    return it == whole_pieces_.end() ? -1 : it->second;
  }

 private:
  struct Place {
    uint32_t begin = 0;
    uint32_t num_bytes = 0;
  };
  const Place& Entry(int32_t id) const { return entries_[static_cast<size_t>(id)]; }

  std::vector<char> bytes_;     // of all tokens; a vector, for moving one leaves keys valid
  std::vector<Place> entries_;  // where in bytes_
  absl::flat_hash_map<absl::string_view, int32_t> whole_pieces_;  // keys lie in bytes_
};

}  // namespace m1
