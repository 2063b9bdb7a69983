// Tokenizer files and texts of any kind: no crash, and what encodes decodes to itself.
// The first byte chooses: a whole tokenizer.json; vocab.json and merges.txt (cut at the first NUL);
// a pattern and a text (cut at the first NUL); or a text for a sound tokenizer.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

#include "common/text/tokenizer.h"
#include "common/text/utf8_stream.h"
#include "tests/common/text/small_tokenizer.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

bool IsUtf8(std::string_view text) {
  return m1::IsValidUtf8(absl::string_view(text.data(), text.size()));
}

// Up to the first NUL, and what is behind it.
std::pair<std::string_view, std::string_view> CutAtNul(std::string_view data) {
  const size_t nul = data.find('\0');
  if (nul == std::string_view::npos) return {data, {}};
  return {data.substr(0, nul), data.substr(nul + 1)};
}

// `may_give_up`: the pattern is not one of ours.
void CheckEncoding(const m1::Tokenizer& tokenizer, std::string_view text, bool may_give_up) {
  for (const auto& ids : {tokenizer.EncodeText(text), tokenizer.EncodeWithSpecials(text)}) {
    if (!IsUtf8(text)) {
      Require(ids.status().code() == absl::StatusCode::kInvalidArgument);
    } else if (ids.ok()) {
      Require(tokenizer.DecodeText(*ids) == text);
      for (int32_t id : *ids) Require(tokenizer.HasToken(id));
    } else {
      Require(may_give_up && ids.status().code() == absl::StatusCode::kDataLoss);
    }
  }
}

void CheckTokenizer(const absl::StatusOr<std::unique_ptr<m1::Tokenizer>>& tokenizer,
                    std::string_view text) {
  if (!tokenizer.ok()) {
    Require(tokenizer.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  CheckEncoding(**tokenizer, text, /*may_give_up=*/true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nlohmann::json kSound = m1::SmallTokenizerJson();
  static const std::unique_ptr<m1::Tokenizer> kSoundTokenizer =
      *m1::Tokenizer::FromJson(kSound.dump());
  if (size < 1) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      CheckTokenizer(m1::Tokenizer::FromJson(rest), "the <start> \u00e9");
      break;
    case 1: {
      const auto [vocab, merges] = CutAtNul(rest);
      CheckTokenizer(m1::Tokenizer::FromVocabAndMerges(vocab, merges, {}), "the <start> \u00e9");
      const std::string sound_vocab = kSound["model"]["vocab"].dump();
      CheckTokenizer(m1::Tokenizer::FromVocabAndMerges(sound_vocab, merges, {{"<x>", 300}}),
                     merges);
      break;
    }
    case 2: {
      const auto [pattern, text] = CutAtNul(rest);
      if (!IsUtf8(pattern)) return 0;
      nlohmann::json file = kSound;
      file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = std::string(pattern);
      CheckTokenizer(m1::Tokenizer::FromJson(file.dump()), text);
      break;
    }
    default:
      CheckEncoding(*kSoundTokenizer, rest, /*may_give_up=*/false);
  }
  return 0;
}
