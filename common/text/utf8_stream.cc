#include "common/text/utf8_stream.h"

#include <cstddef>

namespace m1 {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes of the character that starts with `byte`; 0 if none does.
int LengthFromLead(unsigned char byte) {
  if (byte < 0x80) return 1;
  if (byte < 0xC2 || byte > 0xF4) return 0;
  return byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Table 3-7: the second byte has a narrower range after E0, ED, F0 and F4.
bool IsSecondByte(unsigned char lead, unsigned char byte) {
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return byte >= low && byte <= high;
}

bool IsContinuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

bool Utf8Stream::CanContinue(unsigned char byte) const {
  if (held_.size() == 1) return IsSecondByte(static_cast<unsigned char>(held_[0]), byte);
  return IsContinuation(byte);
}

std::string Utf8Stream::Push(absl::string_view bytes) {
  std::string shown;
  for (char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!held_.empty()) {
      if (CanContinue(byte)) {
        held_.push_back(c);
        if (static_cast<int>(held_.size()) == length_) {
          shown += held_;
          held_.clear();
        }
        continue;
      }
      shown.append(kReplacement.data(), kReplacement.size());
      held_.clear();
    }
    length_ = LengthFromLead(byte);
    if (length_ == 0) {
      shown.append(kReplacement.data(), kReplacement.size());
    } else if (length_ == 1) {
      shown.push_back(c);
    } else {
      held_.push_back(c);
    }
  }
  return shown;
}

std::string Utf8Stream::End() {
  const bool unfinished = !held_.empty();
  held_.clear();
  return unfinished ? std::string(kReplacement) : std::string();
}

bool IsValidUtf8(absl::string_view text) {
  const auto at = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const auto length = static_cast<size_t>(LengthFromLead(at(i)));
    if (length == 0 || length > text.size() - i) return false;
    if (length > 1 && !IsSecondByte(at(i), at(i + 1))) return false;
    for (size_t k = 2; k < length; ++k) {
      if (!IsContinuation(at(i + k))) return false;
    }
    i += length;
  }
  return true;
}

}  // namespace m1
