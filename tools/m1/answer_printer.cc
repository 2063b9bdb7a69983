#include "tools/m1/answer_printer.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace m1 {
namespace {

constexpr char kDim[] = "\x1b[2m";
constexpr char kPlain[] = "\x1b[0m";

std::string ReasonText(const v1::Finish& finish) {
  switch (finish.reason()) {
    case v1::FINISH_REASON_STOP:
      return "";
    case v1::FINISH_REASON_LENGTH:
      return "stopped: length";
    case v1::FINISH_REASON_TOOL_CALLS:
      return "";
    case v1::FINISH_REASON_REPETITION:
      return "stopped: repetition";
    case v1::FINISH_REASON_CANCELLED:
      return "stopped: aborted";
    case v1::FINISH_REASON_DEADLINE:
      return "stopped: deadline";
    default:
      return absl::StrCat("stopped: reason ", static_cast<int>(finish.reason()));
  }
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

}  // namespace

AnswerPrinter::AnswerPrinter() : stderr_is_terminal_(isatty(STDERR_FILENO) == 1) {}

void AnswerPrinter::Write(Part part, const std::string& text) {
  if (part != part_) {
    if (part_ == Part::kReasoning && stderr_is_terminal_) std::fputs(kPlain, stderr);
    if (part_ != Part::kNone && !at_line_start_) {
      std::fputc('\n', part_ == Part::kContent ? stdout : stderr);
    }
    std::fflush(stdout);
    if (part == Part::kReasoning && stderr_is_terminal_) std::fputs(kDim, stderr);
    part_ = part;
    at_line_start_ = true;
  }
  if (text.empty()) return;
  FILE* out = part == Part::kContent ? stdout : stderr;
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
  at_line_start_ = text.back() == '\n';
}

void AnswerPrinter::ShowDelta(const v1::Delta& delta) {
  if (delta.has_tool_call()) {
    tool_calls_.push_back(delta.tool_call());
    Write(Part::kNote, absl::StrCat("[tool call] ", delta.tool_call().name(), " ",
                                    delta.tool_call().arguments_json(), "\n"));
  }
  if (delta.text().empty()) return;
  if (delta.channel() == v1::CHANNEL_REASONING) {
    Write(Part::kReasoning, delta.text());
  } else if (delta.channel() == v1::CHANNEL_CONTENT) {
    content_ += delta.text();
    Write(Part::kContent, delta.text());
  }
}

void AnswerPrinter::ShowFinish(const v1::Finish& finish) {
  const std::string reason = ReasonText(finish);
  Write(Part::kNote, reason.empty() ? "" : absl::StrCat("[", reason, "]\n"));
  if (!stderr_is_terminal_) return;
  const double total = Seconds(finish.timing().total());
  const double first = Seconds(finish.timing().time_to_first_token());
  const int count = finish.usage().completion_token_count();
  Write(Part::kNote, absl::StrFormat("%s[%d tokens, first after %.2f s, %.1f tokens/s]%s\n", kDim,
                                     count, first,
                                     total > first ? (count - 1) / (total - first) : 0.0, kPlain));
}

void AnswerPrinter::Show(const v1::GenerateResponse& response) {
  const int index = response.sample_index();
  if (index != 0) {
    later_samples_[index].push_back(response);
    return;
  }
  if (response.has_delta()) ShowDelta(response.delta());
  if (response.has_finish()) ShowFinish(response.finish());
}

void AnswerPrinter::End() {
  Write(Part::kNone, "");
  for (const auto& [index, responses] : later_samples_) {
    Write(Part::kNote, absl::StrCat("[sample ", index, "]\n"));
    const std::string content = content_;
    for (const v1::GenerateResponse& response : responses) {
      if (response.has_delta()) ShowDelta(response.delta());
      if (response.has_finish()) ShowFinish(response.finish());
    }
    content_ = content;
    Write(Part::kNone, "");
  }
  later_samples_.clear();
}

}  // namespace m1
