// Shows a streamed answer to a person: the answer on standard output, thought (dimmed on a terminal), tool
// calls and notes on standard error, so that a pipe gets the answer alone.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "m1/v1/inference.pb.h"

namespace m1 {

class AnswerPrinter {
 public:
  AnswerPrinter();

  // One message of the stream. Sample 0 is shown as it comes, others when they finish.
  void Show(const v1::GenerateResponse& response);
  // Ends colours and the last line, also after an error.
  void End();

  // Of sample 0: what a chat keeps in its history.
  const std::string& content() const { return content_; }
  const std::vector<v1::ToolCall>& tool_calls() const { return tool_calls_; }

 private:
  enum class Part { kNone, kReasoning, kContent, kNote };

  void ShowDelta(const v1::Delta& delta);
  void ShowFinish(const v1::Finish& finish);
  // Writes `text` and ends the part before it.
  void Write(Part part, const std::string& text);

  const bool stderr_is_terminal_;
  Part part_ = Part::kNone;
  bool at_line_start_ = true;
  std::string content_;
  std::vector<v1::ToolCall> tool_calls_;
  std::map<int, std::vector<v1::GenerateResponse>> later_samples_;
};

}  // namespace m1
