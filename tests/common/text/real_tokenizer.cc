#include "tests/common/text/real_tokenizer.h"

#include <zlib.h>

#include <array>
#include <fstream>
#include <iterator>

#include "common/base/check.h"

namespace m1 {

std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  M1_CHECK_MSG(file.is_open(), path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string Gunzip(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  M1_CHECK_MSG(file != nullptr, path);
  std::string contents;
  std::array<char, 1 << 16> buffer;
  int num_bytes = 0;
  while ((num_bytes = gzread(file, buffer.data(), buffer.size())) > 0) {
    contents.append(buffer.data(), static_cast<size_t>(num_bytes));
  }
  M1_CHECK_MSG(num_bytes == 0 && gzclose(file) == Z_OK, path);
  return contents;
}

const std::string& RealTokenizerJson() {
  static const std::string* const kJson =
      new std::string(Gunzip("tests/golden/minimax-m1/tokenizer.json.gz"));
  return *kJson;
}

const Tokenizer& RealTokenizer() {
  static const Tokenizer* const kTokenizer = [] {
    auto tokenizer = Tokenizer::FromJson(RealTokenizerJson());
    M1_CHECK_MSG(tokenizer.ok(), tokenizer.status().ToString());
    return std::move(tokenizer)->release();
  }();
  return *kTokenizer;
}

}  // namespace m1
