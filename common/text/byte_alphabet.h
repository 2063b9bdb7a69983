// The byte alphabet of byte-level BPE: each byte has a printable character that spells it in
// vocabularies and merges (printable Latin-1 stands for itself, the rest is U+0100 and up, in
// order: the blank is U+0120).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace m1 {

constexpr bool SpellsItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// code point -> byte, or -1. The alphabet ends at U+0143.
inline constexpr std::array<int16_t, 0x144> kByteOfCharacter = [] {
  std::array<int16_t, 0x144> table{};
  for (int16_t& entry : table) entry = -1;
  size_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const size_t character = SpellsItself(byte) ? static_cast<size_t>(byte) : next++;
    table[character] = static_cast<int16_t>(byte);
  }
  return table;
}();

// The bytes that `spelling` (UTF-8) stands for; nothing if a character is not of the alphabet.
inline std::optional<std::string> BytesOfSpelling(std::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  for (size_t i = 0; i < spelling.size(); ++i) {
    size_t character = static_cast<unsigned char>(spelling[i]);
    if (character >= 0x80) {
      // Two bytes reach U+07FF, which is all that is needed.
      if (character < 0xC2 || character > 0xDF || i + 1 == spelling.size()) return std::nullopt;
      const unsigned char second = static_cast<unsigned char>(spelling[++i]);
      if ((second & 0xC0) != 0x80) return std::nullopt;
      character = (character & 0x1F) << 6 | (second & 0x3F);
    }
    if (character >= kByteOfCharacter.size() || kByteOfCharacter[character] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kByteOfCharacter[character]));
  }
  return bytes;
}

}  // namespace m1
