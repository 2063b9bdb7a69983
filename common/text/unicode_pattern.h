// A tokenizer's regular expression, written for Oniguruma, in PCRE2's dialect.
//
// The two engines read some constructs differently and know different versions of Unicode. Only
// what means the same in both, or can be made to, is let through: literals, escapes of punctuation,
// \r \n \t \f \xHH \uHHHH, . and |, classes without nesting, \s \S \d, \p{..} and \P{..} of a
// general category, (?:) (?i:) (?=) (?!) (?<=) (?<!) (?>) and plain groups, ? * + {n} {n,} {n,m}.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace m1 {

// \s is spelled out, and \p{X} gets the code points that this PCRE2 may not know yet
// (unicode_additions.h). Errors: DataLoss naming the construct and its byte offset.
absl::StatusOr<std::string> TranslatePattern(std::string_view pattern);

}  // namespace m1
