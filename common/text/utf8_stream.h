// Text from bytes that arrive in pieces: only whole characters come out.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace m1 {

// Bytes that cannot become a character are shown as U+FFFD, one for each maximal subpart (Unicode
// standard, section 3.9, table 3-7), as soon as that is known. At most three bytes are held. Not
// thread-safe.
class Utf8Stream {
 public:
  // Takes the next bytes; returns what may be shown now.
  std::string Push(absl::string_view bytes);

  // The stream ends: U+FFFD if a character is unfinished, else nothing. Afterwards the stream is as
  // new.
  std::string End();

  // Bytes taken but not yet shown: 0..3.
  int num_held_bytes() const { return static_cast<int>(held_.size()); }

 private:
  // Whether `byte` can go on with the character in held_, which is not empty.
  bool CanContinue(unsigned char byte) const;

  std::string held_;  // the beginning of a character
  int length_ = 0;    // bytes of that character when whole
};

bool IsValidUtf8(absl::string_view text);

}  // namespace m1
