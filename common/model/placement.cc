#include "common/model/placement.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

// Digits alone: no sign, no blanks.
absl::StatusOr<int32_t> ParseNumber(absl::string_view digits, absl::string_view text) {
  int32_t number = -1;
  const bool only_digits =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!only_digits || !absl::SimpleAtoi(digits, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", digits, "\" in \"", text, "\" is not a number"));
  }
  return number;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseExpertList(absl::string_view text, int32_t num_experts) {
  std::vector<int32_t> experts;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(part, absl::MaxSplits('-', 1));
    const bool is_range = part.find('-') != absl::string_view::npos;
    M1_ASSIGN_OR_RETURN(const int32_t first, ParseNumber(ends.first, text));
    M1_ASSIGN_OR_RETURN(const int32_t last, ParseNumber(is_range ? ends.second : ends.first, text));
    if (first > last) {
      return absl::InvalidArgumentError(
          absl::StrCat("range \"", part, "\" in \"", text, "\" runs backwards"));
    }
    if (last >= num_experts) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expert ", last, " in \"", text, "\", the model has experts 0 to ", num_experts - 1));
    }
    for (int32_t expert = first; expert <= last; ++expert) experts.push_back(expert);
    if (experts.size() > static_cast<size_t>(num_experts)) break;  // some id stands twice
  }
  std::sort(experts.begin(), experts.end());
  const auto twice = std::adjacent_find(experts.begin(), experts.end());
  if (twice != experts.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert ", *twice, " stands twice in \"", text, "\""));
  }
  return experts;
}

absl::StatusOr<std::vector<int32_t>> ParseShard(absl::string_view text, int32_t num_experts) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  if (parts.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not of the form I/N or POD-I/N"));
  }
  const size_t dash = parts[0].rfind('-');
  const bool is_pod = dash != absl::string_view::npos && dash > 0;
  M1_ASSIGN_OR_RETURN(const int32_t ordinal,
                      ParseNumber(is_pod ? parts[0].substr(dash + 1) : parts[0], text));
  M1_ASSIGN_OR_RETURN(const int32_t count, ParseNumber(parts[1], text));
  if (count < 1 || count > num_experts) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" has ", count,
                                                   " shards, wanted 1 to ", num_experts,
                                                   ", the model's experts"));
  }
  const int32_t index = is_pod ? ordinal % count : ordinal;
  if (index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard ", index, " in \"", text, "\", shards are 0 to ", count - 1));
  }
  const auto border = [&](int64_t i) { return static_cast<int32_t>(i * num_experts / count); };
  std::vector<int32_t> experts;
  for (int32_t expert = border(index); expert < border(index + 1); ++expert) {
    experts.push_back(expert);
  }
  return experts;
}

std::string FormatExpertList(const std::vector<int32_t>& experts) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < experts.size();) {
    size_t end = begin;
    while (end + 1 < experts.size() && experts[end + 1] == experts[end] + 1) ++end;
    parts.push_back(begin == end ? absl::StrCat(experts[begin])
                                 : absl::StrCat(experts[begin], "-", experts[end]));
    begin = end + 1;
  }
  return absl::StrJoin(parts, ",");
}

}  // namespace m1
