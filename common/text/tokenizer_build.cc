// Checks what the files say and builds the tables.
#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/text/byte_alphabet.h"
#include "common/text/tokenizer.h"
#include "common/text/tokenizer_spec.h"
#include "common/text/utf8_stream.h"

namespace m1 {
namespace {

constexpr int64_t kMaxIds = 4 << 20;
// Longer pieces are left to the merges: they hardly ever are one token.
constexpr size_t kMaxWholePieceBytes = 128;

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

std::string Quoted(std::string_view text) {
  return absl::StrCat("'", absl::Utf8SafeCEscape(std::string(text.substr(0, 80))), "'");
}

absl::Status CheckId(int64_t id, std::string_view token) {
  if (id >= 0 && id < kMaxIds) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("token ", Quoted(token), " has id ", id, ", ids run from 0 to ", kMaxIds - 1));
}

absl::StatusOr<int32_t> VocabSize(const TokenizerSpec& spec) {
  int64_t largest = -1;
  for (const VocabEntry& entry : spec.vocab) {
    M1_RETURN_IF_ERROR(CheckId(entry.id, entry.spelling));
    largest = std::max(largest, entry.id);
  }
  for (const SpecialToken& token : spec.specials) {
    M1_RETURN_IF_ERROR(CheckId(token.id, token.text));
    largest = std::max<int64_t>(largest, token.id);
  }
  return static_cast<int32_t>(largest + 1);
}

absl::Status AddToken(int32_t id, std::string_view bytes, TokenTable* tokens) {
  if (bytes.empty()) return absl::DataLossError(absl::StrCat("token ", id, " is empty"));
  if (tokens->Set(id, bytes)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("tokens ", Quoted(tokens->Bytes(id)), " and ",
                                          Quoted(bytes), " have the same id ", id));
}

// Fills `tokens`; returns the ids of the vocabulary, by bytes, without special tokens.
absl::StatusOr<TokenIds> AddTokens(const TokenizerSpec& spec, TokenTable* tokens) {
  absl::flat_hash_map<std::string, int32_t> special_ids;
  for (const SpecialToken& token : spec.specials) {
    M1_RETURN_IF_ERROR(AddToken(token.id, token.text, tokens));
    if (!IsValidUtf8(token.text)) {
      return absl::DataLossError(absl::StrCat("special token ", token.id, " is not UTF-8"));
    }
    if (!special_ids.emplace(token.text, token.id).second) {
      return absl::DataLossError(
          absl::StrCat("special token ", Quoted(token.text), " comes twice"));
    }
  }
  TokenIds ids;
  ids.reserve(spec.vocab.size());
  for (const VocabEntry& entry : spec.vocab) {
    // Special tokens may stand in the vocabulary too, spelled as they are.
    if (const auto it = special_ids.find(entry.spelling); it != special_ids.end()) {
      if (it->second == entry.id) continue;
      return absl::DataLossError(absl::StrCat("special token ", Quoted(entry.spelling), " has id ",
                                              it->second, ", in the vocabulary ", entry.id));
    }
    std::optional<std::string> bytes = BytesOfSpelling(entry.spelling);
    if (!bytes.has_value()) {
      return absl::DataLossError(
          absl::StrCat("token ", Quoted(entry.spelling), " is not spelled in the byte alphabet"));
    }
    const auto id = static_cast<int32_t>(entry.id);
    M1_RETURN_IF_ERROR(AddToken(id, *bytes, tokens));
    ids.insert_or_assign(*std::move(bytes), id);
  }
  return ids;
}

absl::StatusOr<std::array<int32_t, 256>> ByteIds(const TokenIds& ids) {
  std::array<int32_t, 256> byte_ids{};
  for (size_t byte = 0; byte < byte_ids.size(); ++byte) {
    const auto it = ids.find(std::string(1, static_cast<char>(byte)));
    if (it == ids.end()) {
      return absl::DataLossError(absl::StrCat("the vocabulary has no token for byte ", byte));
    }
    byte_ids[byte] = it->second;
  }
  return byte_ids;
}

absl::StatusOr<BpeMerges> BuildMerges(const TokenizerSpec& spec, const TokenIds& ids) {
  M1_ASSIGN_OR_RETURN(const auto byte_ids, ByteIds(ids));
  BpeMerges merges(byte_ids);
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const auto fail = [&spec, rank](std::string_view what) {
      return absl::DataLossError(absl::StrCat("merge ", rank, " ", Quoted(spec.merges[rank].first),
                                              " ", Quoted(spec.merges[rank].second), ": ",
                                              std::string(what)));
    };
    std::optional<std::string> left_bytes = BytesOfSpelling(left);
    std::optional<std::string> right_bytes = BytesOfSpelling(right);
    if (!left_bytes.has_value() || !right_bytes.has_value()) {
      return fail("not spelled in the byte alphabet");
    }
    const auto left_it = ids.find(*left_bytes);
    const auto right_it = ids.find(*right_bytes);
    if (left_it == ids.end() || right_it == ids.end()) {
      return fail("a part is not in the vocabulary");
    }
    const auto result_it = ids.find(*left_bytes + *right_bytes);
    if (result_it == ids.end()) return fail("the result is not in the vocabulary");
    if (!merges.Add(left_it->second, right_it->second, result_it->second)) {
      return fail("comes twice");
    }
  }
  return merges;
}

// Tells which tokens are reached from their own bytes, so that text equal to one needs no merging.
void AddWholePieces(const TokenIds& ids, const BpeMerges& merges, bool ignore_merges,
                    TokenTable* tokens) {
  std::vector<int32_t> encoded;
  for (const auto& [bytes, id] : ids) {
    if (!ignore_merges) {
      if (bytes.size() > kMaxWholePieceBytes) continue;
      encoded.clear();
      merges.Encode(bytes, &encoded);
      if (encoded.size() != 1 || encoded[0] != id) continue;
    }
    tokens->AddWholePiece(id);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSpec(const TokenizerSpec& spec) {
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(spec.patterns);
  if (!pre_tokenizer.ok()) return AddContext(pre_tokenizer.status(), "pre_tokenizer");
  M1_ASSIGN_OR_RETURN(const int32_t size, VocabSize(spec));
  TokenTable tokens(size);
  M1_ASSIGN_OR_RETURN(const TokenIds ids, AddTokens(spec, &tokens));
  M1_ASSIGN_OR_RETURN(BpeMerges merges, BuildMerges(spec, ids));
  AddWholePieces(ids, merges, spec.ignore_merges, &tokens);
  return std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(pre_tokenizer), std::move(merges),
                                                  std::move(tokens), SpecialTokens(spec.specials)));
}

}  // namespace m1
