// m1 generate: one request, its answer streamed to the terminal or as JSON lines.
#include <google/protobuf/util/json_util.h>

#include <iostream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

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

struct GenerateFlags {
  ConnectionFlags connection;
  std::optional<std::string> prompt;
  std::optional<std::string> chat;
  std::optional<std::string> token_ids;
  std::optional<std::string> system;
  std::optional<absl::Duration> timeout;
  bool json = false;
};

absl::Status FillPrompt(const GenerateFlags& flags, const RequestFlags& request_flags,
                        v1::GenerateRequest* request) {
  const int count = (flags.prompt ? 1 : 0) + (flags.chat ? 1 : 0) + (flags.token_ids ? 1 : 0);
  if (count != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("got ", count, " of --prompt, --chat and --token_ids, wanted one"));
  }
  if (flags.prompt) request->set_text(*flags.prompt);
  if (flags.token_ids) {
    std::vector<int32_t> ids;
    M1_RETURN_IF_ERROR(ParseIds("token_ids", *flags.token_ids, &ids));
    request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  if (flags.chat) {
    v1::Chat* chat = request->mutable_chat();
    if (flags.system) {
      v1::ChatMessage* message = chat->add_messages();
      message->set_role(v1::ROLE_SYSTEM);
      message->set_text(*flags.system);
    }
    v1::ChatMessage* message = chat->add_messages();
    message->set_role(v1::ROLE_USER);
    message->set_text(*flags.chat);
    M1_RETURN_IF_ERROR(request_flags.FillTools(chat));
  }
  return absl::OkStatus();
}

// One message as one line, with the names of the proto and without leaving out zeros.
void PrintJson(const v1::GenerateResponse& response) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(response, &text, options).ok()) return;
  std::cout << text << std::endl;
}

absl::Status Generate(const std::vector<std::string>& args) {
  GenerateFlags flags;
  RequestFlags request_flags;
  FlagSet set(
      "generate",
      "sends one request and streams the answer: the answer to standard output, thought and "
      "notes to\nstandard error. Values in brackets are the server's defaults.");
  flags.connection.Register(&set);
  set.String("prompt", &flags.prompt, "text to continue");
  set.String("chat", &flags.chat, "a user's message");
  set.String("system", &flags.system, "with --chat: a system message before it");
  set.String("token_ids", &flags.token_ids, "token ids to continue: 1,2,3");
  request_flags.Register(&set);
  set.Duration("timeout", &flags.timeout, "deadline of the request (none)");
  set.Bool("json", &flags.json, "print one JSON object a line for each message of the stream");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  v1::GenerateRequest request;
  M1_RETURN_IF_ERROR(FillPrompt(flags, request_flags, &request));
  M1_RETURN_IF_ERROR(request_flags.Fill(&request));

  M1_ASSIGN_OR_RETURN(Connection connection, flags.connection.Open());
  BlockInterrupt();
  Client client(std::move(connection));
  InterruptWatcher interrupt([&client] { client.Cancel(); });
  AnswerPrinter printer;
  const absl::Status status =
      client.Generate(request, flags.timeout.value_or(absl::InfiniteDuration()),
                      [&flags, &printer](const v1::GenerateResponse& response) {
                        if (flags.json) {
                          PrintJson(response);
                        } else {
                          printer.Show(response);
                        }
                      });
  if (!flags.json) printer.End();
  return status;
}

}  // namespace

int RunGenerate(const std::vector<std::string>& args) {
  const absl::Status status = Generate(args);
  return status.ok() ? 0 : FailCommand("generate", status);
}

}  // namespace m1
