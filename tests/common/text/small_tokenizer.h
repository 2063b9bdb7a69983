// A tokenizer.json of a few hundred tokens, to be bent by tests.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

#include "common/text/byte_alphabet.h"

namespace m1 {

// `bytes` in the byte alphabet.
inline std::string Spell(std::string_view bytes) {
  std::string spelling;
  for (char c : bytes) {
    for (size_t character = 0; character < kByteOfCharacter.size(); ++character) {
      if (kByteOfCharacter[character] != static_cast<unsigned char>(c)) continue;
      if (character < 0x80) {
        spelling.push_back(static_cast<char>(character));
      } else {
        spelling.push_back(static_cast<char>(0xC0 | character >> 6));
        spelling.push_back(static_cast<char>(0x80 | (character & 0x3F)));
      }
    }
  }
  return spelling;
}

// Ids 0..255 are the bytes, 256 + r is the result of merge r: "th", "he", "the", " t", " the",
// "aa", "aaaa"; then <start> 263, <start>+ 264 (special) and <tool> 265 (added, shown to
// readers).
inline nlohmann::json SmallTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[Spell(std::string(1, static_cast<char>(byte)))] = byte;
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"t", "h"}, {"h", "e"}, {"th", "e"}, {" ", "t"}, {" ", "the"}, {"a", "a"}, {"aa", "aa"}};
  nlohmann::json merge_list = nlohmann::json::array();
  int next_id = 256;
  for (const auto& merge : merges) {
    vocab[Spell(merge.first + merge.second)] = next_id++;
    merge_list.push_back(Spell(merge.first) + " " + Spell(merge.second));
  }
  nlohmann::json added = nlohmann::json::array();
  for (const char* text : {"<start>", "<start>+", "<tool>"}) {
    added.push_back({{"id", next_id++},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", std::string_view(text) != "<tool>"}});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern", {{"Regex", R"( ?\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+)"}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"},
               {"add_prefix_space", false},
               {"trim_offsets", true},
               {"use_regex", false}}}}}},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", merge_list}}}};
}

}  // namespace m1
