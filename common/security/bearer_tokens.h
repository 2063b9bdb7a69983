// Bearer tokens, known by their hashes only. A file of lines
//
//   NAME SHA256HEX [admin]
//
// NAME: who holds it, 1..64 of A-Z a-z 0-9 . _ -; several tokens may have one name, so that one can
// follow the other. SHA256HEX: of the token's bytes, 64 hexadecimal digits. admin: its holder may
// call the administration of the fleet, too. Empty lines and lines that begin with # are skipped; a
// file without any other line is a table too: nobody is in it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

struct TokenHolder {
  std::string name;
  bool is_admin = false;

  bool operator==(const TokenHolder& other) const {
    return name == other.name && is_admin == other.is_admin;
  }
};

// Thread-safe.
class BearerTokens {
 public:
  static constexpr size_t kMaxTokens = 4096;

  // Errors: InvalidArgument naming the line, never repeating it: somebody may have put a token
  // there.
  static absl::StatusOr<BearerTokens> Parse(absl::string_view text);

  // Nullopt for a token that is not in the table. Takes the same time whatever the token.
  std::optional<TokenHolder> HolderOf(absl::string_view token) const;
  size_t size() const { return entries_.size(); }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    TokenHolder holder;
    Digest digest;
  };

  std::vector<Entry> entries_;
};

// The lower-case hexadecimal SHA-256 of `token`, as in the file.
std::string TokenDigest(absl::string_view token);

}  // namespace m1
