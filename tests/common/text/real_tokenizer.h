// MiniMax-M1's own tokenizer.
#pragma once

#include <string>

#include "common/text/tokenizer.h"

namespace m1 {

std::string ReadWholeFile(const std::string& path);

// The contents of a gzip file.
std::string Gunzip(const std::string& path);

// The text of tokenizer.json, 200 000 tokens.
const std::string& RealTokenizerJson();

// Built once for the process.
const Tokenizer& RealTokenizer();

}  // namespace m1
