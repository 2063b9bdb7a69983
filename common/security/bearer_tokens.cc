#include "common/security/bearer_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace m1 {
namespace {

constexpr size_t kMaxNameBytes = 64;

bool IsName(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '-';
         });
}

absl::Status BadLine(size_t number, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(
      "line ", number, ": ", problem, "; wanted NAME SHA256HEX, or NAME SHA256HEX admin"));
}

std::array<uint8_t, 32> Hash(absl::string_view token) {
  std::array<uint8_t, 32> digest{};
  SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(), digest.data());
  return digest;
}

}  // namespace

absl::StatusOr<BearerTokens> BearerTokens::Parse(absl::string_view text) {
  BearerTokens table;
  std::set<Digest> digests;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() != 2 && words.size() != 3)
      return BadLine(number, absl::StrCat(words.size(), " words"));
    if (!IsName(words[0])) return BadLine(number, "the name is not 1..64 of A-Z a-z 0-9 . _ -");
    const bool is_hex =
        words[1].size() == 64 && std::all_of(words[1].begin(), words[1].end(), [](char c) {
          return absl::ascii_isxdigit(static_cast<unsigned char>(c));
        });
    if (!is_hex) return BadLine(number, "the hash is not 64 hexadecimal digits");
    if (words.size() == 3 && words[2] != "admin") return BadLine(number, "the third word");
    Entry entry{{std::string(words[0]), words.size() == 3}, {}};
    const std::string bytes = absl::HexStringToBytes(words[1]);
    std::copy(bytes.begin(), bytes.end(), entry.digest.begin());
    if (!digests.insert(entry.digest).second) {
      return BadLine(number, "the hash is of an earlier line, too");
    }
    if (table.entries_.size() == kMaxTokens) {
      return BadLine(number, absl::StrCat("more than ", kMaxTokens, " tokens"));
    }
    table.entries_.push_back(std::move(entry));
  }
  return table;
}

std::optional<TokenHolder> BearerTokens::HolderOf(absl::string_view token) const {
  const Digest digest = Hash(token);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    // No early end: how long it takes says nothing about which one it was, or how much of it.
    const bool equal = CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0;
    found = equal ? &entry : found;
  }
  if (found == nullptr) return std::nullopt;
  return found->holder;
}

std::string TokenDigest(absl::string_view token) {
  const std::array<uint8_t, 32> digest = Hash(token);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

}  // namespace m1
