// How fast the real model's tokenizer encodes, in MB (1e6 bytes) per second of one core, and loads.
// The texts are the recorded ones, repeated: prose in English, and all of them (with long runs of
// one character); then the files named on the command line. Run from the source tree's root.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

#include "common/text/tokenizer.h"
#include "tests/common/text/golden_rows.h"
#include "tests/common/text/real_tokenizer.h"

namespace m1 {
namespace {

constexpr size_t kTextBytes = 8'000'000;
constexpr int kRuns = 5;

bool IsEnglishProse(const std::string& text) {
  const auto is_prose = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return absl::ascii_isalpha(byte) || c == ' ' || c == '.' || c == ',' || c == '\'';
  };
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  const bool are_words = std::all_of(words.begin(), words.end(), [](const std::string& word) {
    return !word.empty() && word.size() < 20;
  });
  return words.size() > 5 && are_words &&
         std::count_if(text.begin(), text.end(), is_prose) * 100 >
             static_cast<ptrdiff_t>(text.size()) * 95;
}

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void Report(const char* name, const std::string& unit) {
  std::string text;
  while (text.size() < kTextBytes) text += unit;
  double best = 0;
  size_t num_tokens = 0;
  for (int run = 0; run < kRuns; ++run) {
    const double start = CpuSeconds();
    const auto ids = RealTokenizer().EncodeText(text);
    const double seconds = CpuSeconds() - start;
    best = std::max(best, static_cast<double>(text.size()) / seconds / 1e6);
    num_tokens = ids.ok() ? ids->size() : 0;
  }
  std::printf("%s: %.1f MB/s (%zu bytes, %zu tokens; a unit of %zu bytes)\n", name, best,
              text.size(), num_tokens, unit.size());
}

int Main(int num_files, char** files) {
  RealTokenizerJson();
  const double start = CpuSeconds();
  RealTokenizer();
  std::printf("load: %.2f s\n", CpuSeconds() - start);
  std::string english;
  std::string all;
  for (const JsonValue& row : ReadJsonLines("tests/golden/minimax-m1/tokenization.jsonl")) {
    const std::string text = *StringAt(row, "text");
    all += text + "\n";
    if (IsEnglishProse(text)) english += text + " ";
  }
  Report("english", english);
  Report("all", all);
  for (int i = 0; i < num_files; ++i) Report(files[i], ReadWholeFile(files[i]));
  return 0;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) { return m1::Main(argc - 1, argv + 1); }
