// m1 chat: an interactive chat. Ctrl-C stops the answer, not the chat; works from a pipe as well.
#include <unistd.h>

#include <iostream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"

#include "common/base/status_macros.h"
#include "tools/m1/answer_printer.h"
#include "tools/m1/client.h"
#include "tools/m1/commands.h"
#include "tools/m1/connection.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/interrupt.h"
#include "tools/m1/request_flags.h"

namespace m1 {
namespace {

constexpr char kCommandsText[] =
    "/exit ends, /reset forgets the conversation, Ctrl-C stops an answer\n";

class ChatSession {
 public:
  ChatSession(Connection connection, std::string system, const RequestFlags& flags)
      : interactive_(isatty(STDIN_FILENO) == 1),
        system_(std::move(system)),
        flags_(flags),
        client_(std::move(connection)),
        interrupt_([this] { OnInterrupt(); }) {}

  // Errors: of the flags, at the start. What a server answers is shown, and the chat goes on.
  absl::Status Run() {
    M1_RETURN_IF_ERROR(flags_.Fill(&base_));
    M1_RETURN_IF_ERROR(flags_.FillTools(base_.mutable_chat()));
    Reset();
    if (interactive_) std::cerr << kCommandsText;
    std::string line;
    bool all_answered = true;
    while (ReadLine("> ", &line)) {
      absl::StripAsciiWhitespace(&line);
      if (line.empty()) continue;
      if (line == "/exit" || line == "/quit") break;
      if (line == "/help") {
        std::cerr << kCommandsText;
      } else if (line == "/reset") {
        Reset();
        std::cerr << "[a new conversation]\n";
      } else {
        v1::ChatMessage* message = chat_.add_messages();
        message->set_role(v1::ROLE_USER);
        message->set_text(line);
        all_answered = Answer() && all_answered;
      }
    }
    if (interactive_) std::cerr << "\n";
    // From a pipe nobody reads the messages: the exit code says it.
    return interactive_ || all_answered ? absl::OkStatus()
                                        : absl::UnavailableError("not every message was answered");
  }

 private:
  void Reset() {
    chat_ = base_.chat();
    if (system_.empty()) return;
    v1::ChatMessage* message = chat_.add_messages();
    message->set_role(v1::ROLE_SYSTEM);
    message->set_text(system_);
  }

  // False at the end of input.
  bool ReadLine(const std::string& prompt, std::string* line) {
    if (interactive_) std::cerr << prompt << std::flush;
    return static_cast<bool>(std::getline(std::cin, *line));
  }

  void OnInterrupt() {
    if (!client_.Cancel()) std::cerr << "\n[/exit or Ctrl-D ends the chat]\n> " << std::flush;
  }

  // Answers the last message, asks for results of tools while the model calls some. False when the
  // server refused: the message is taken back.
  bool Answer() {
    for (;;) {
      v1::GenerateRequest request = base_;
      *request.mutable_chat() = chat_;
      AnswerPrinter printer;
      const absl::Status status = client_.Generate(
          request, absl::InfiniteDuration(),
          [&printer](const v1::GenerateResponse& response) { printer.Show(response); });
      printer.End();
      if (!status.ok() && !absl::IsCancelled(status)) {
        FailCommand("chat", status);
        chat_.mutable_messages()->RemoveLast();
        return false;
      }
      if (!status.ok()) std::cerr << "[stopped]\n";
      v1::ChatMessage* answer = chat_.add_messages();
      answer->set_role(v1::ROLE_ASSISTANT);
      answer->set_text(printer.content());
      for (const v1::ToolCall& call : printer.tool_calls()) *answer->add_tool_calls() = call;
      if (printer.tool_calls().empty() || !status.ok()) return true;
      if (!ReadToolResults(printer.tool_calls())) return true;
    }
  }

  // False at the end of input: the calls stay unanswered.
  bool ReadToolResults(const std::vector<v1::ToolCall>& calls) {
    for (const v1::ToolCall& call : calls) {
      std::string result;
      if (!ReadLine("result of " + call.name() + ": ", &result)) return false;
      v1::ChatMessage* message = chat_.add_messages();
      message->set_role(v1::ROLE_TOOL);
      message->set_tool_name(call.name());
      message->set_text(result);
    }
    return true;
  }

  const bool interactive_;
  const std::string system_;
  const RequestFlags& flags_;
  v1::GenerateRequest base_;  // sampling, stopping and tools of every request
  v1::Chat chat_;
  Client client_;
  InterruptWatcher interrupt_;  // last: uses the client
};

absl::Status Chat(const std::vector<std::string>& args) {
  ConnectionFlags connection_flags;
  std::string system;
  RequestFlags request_flags;
  FlagSet set(
      "chat",
      "an interactive chat: thought dimmed, answer plain. Ctrl-C stops the answer, /exit or "
      "Ctrl-D ends.\nWith --tools, calls are shown and you are asked for their results.");
  connection_flags.Register(&set);
  set.String("system", &system, "a system message");
  request_flags.Register(&set);
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_ASSIGN_OR_RETURN(Connection connection, connection_flags.Open());
  BlockInterrupt();
  return ChatSession(std::move(connection), system, request_flags).Run();
}

}  // namespace

int RunChat(const std::vector<std::string>& args) {
  const absl::Status status = Chat(args);
  return status.ok() ? 0 : FailCommand("chat", status);
}

}  // namespace m1
