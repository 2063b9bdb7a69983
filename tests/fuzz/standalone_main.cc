// Runs a fuzz target without libFuzzer: every file of the given folders or files as it is, then mutations of them
// from a fixed seed until about three seconds have passed. So every build and sanitizer exercises the entry.
//   chat_parser_fuzz tests/fuzz/corpus/chat_parser_fuzz
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr std::chrono::milliseconds kMutationTime(3000);
constexpr int kMaxMutations = 20000;

std::vector<std::string> ReadInputs(int argc, char** argv) {
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    std::error_code error;
    if (std::filesystem::is_directory(argv[i], error)) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
        if (entry.is_regular_file()) paths.push_back(entry.path().string());
      }
    } else {
      paths.push_back(argv[i]);
    }
  }
  std::sort(paths.begin(), paths.end());  // the order of a directory differs between machines
  std::vector<std::string> inputs = {std::string()};
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (!file) continue;
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

// One to four edits: a byte changed, bytes removed, doubled, or taken from another input, the end cut off.
std::string Mutate(const std::vector<std::string>& inputs, std::mt19937_64& random) {
  const auto below = [&random](size_t limit) { return limit == 0 ? 0 : random() % limit; };
  std::string text = inputs[below(inputs.size())];
  for (size_t edits = 1 + below(4); edits > 0; --edits) {
    const size_t at = below(text.size() + 1);
    const size_t length = 1 + below(std::min<size_t>(64, text.size() + 1));
    switch (below(5)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3: {
        const std::string& other = inputs[below(inputs.size())];
        text.insert(at, other.substr(below(other.size() + 1), length));
        break;
      }
      default:
        text.resize(at);
    }
  }
  return text;
}

void Run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> inputs = ReadInputs(argc, argv);
  if (inputs.size() < 2) {
    std::fprintf(stderr, "no seed input found; usage: %s FOLDER|FILE...\n", argv[0]);
    return 1;
  }
  for (const std::string& input : inputs) Run(input);
  std::mt19937_64 random(1);
  const auto end = std::chrono::steady_clock::now() + kMutationTime;
  int num_mutations = 0;
  for (; num_mutations < kMaxMutations && std::chrono::steady_clock::now() < end; ++num_mutations) {
    Run(Mutate(inputs, random));
  }
  std::printf("%zu seeds, %d mutations\n", inputs.size(), num_mutations);
  return 0;
}
