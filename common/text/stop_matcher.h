// Looks for stop strings in text that arrives in pieces, and holds back what may become one.
//
// The answer ends where a stop string is complete for the first time; of several that end at the
// same byte it is the longest. So the result does not depend on how the text is cut into pieces,
// and no part of a string that later completes was given out before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace m1 {

// Time is linear in the text for each stop string, whatever the strings are (Knuth, Morris, Pratt);
// as many bytes are held as the longest stop string has, less one. Not thread-safe. Order of calls:
// Push any number of times, Finish once.
class StopMatcher {
 public:
  // None is empty; none at all is allowed.
  explicit StopMatcher(const std::vector<std::string>& stop_strings);

  // The next piece of the text. Returns what may be given out: all up to the beginning of a stop
  // string that may still complete. With `may_match` false a string that ends in this piece does
  // not count. Once a string matched, nothing more comes out.
  std::string Push(absl::string_view text, bool may_match = true);
  // The text ends: what was held back.
  std::string Finish();

  // The stop string that ended the text, if one did.
  const std::optional<std::string>& matched() const { return matched_; }
  // After a match: the text from the beginning of that string to the end of its piece.
  absl::string_view cut_text() const { return cut_text_; }

 private:
  struct Pattern {
    std::string text;
    // Length of the longest proper prefix of text[0..i] that is also its suffix.
    std::vector<uint32_t> borders;
    size_t length = 0;  // of the longest prefix of `text` with which the text so far ends

    // True when `text` is complete.
    bool Step(char c);
  };

  std::vector<Pattern> patterns_;
  std::string held_;  // as long as the longest prefix
  std::optional<std::string> matched_;
  std::string cut_text_;
};

}  // namespace m1
