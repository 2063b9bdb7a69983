// Output parser on any text: no crash, every byte gets a channel, and no cut changes the result.
// The first byte chooses the options, the second the cuts; the rest is the text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "common/text/output_parser.h"
#include "common/text/utf8_stream.h"

namespace {

struct Result {
  std::vector<m1::OutputEvent> events;
  std::string channels;
};

void Append(m1::ParsedOutput output, Result* result) {
  for (m1::OutputEvent& event : output.events) {
    if (event.channel != m1::OutputChannel::kToolCall && !result->events.empty() &&
        result->events.back().channel == event.channel) {
      result->events.back().text += event.text;
    } else {
      result->events.push_back(event);
    }
  }
  for (const m1::ChannelRun& run : output.channels) {
    result->channels.append(static_cast<size_t>(run.num_bytes),
                            static_cast<char>('0' + static_cast<int>(run.channel)));
  }
}

Result Parse(absl::string_view text, bool tools_enabled, size_t stride) {
  m1::OutputParser parser(tools_enabled);
  Result result;
  for (; text.size() > stride; text.remove_prefix(stride))
    Append(parser.Feed(text.substr(0, stride)), &result);
  Append(parser.Feed(text), &result);
  Append(parser.Finish(), &result);
  return result;
}

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const bool tools_enabled = (data[0] & 1) != 0;
  const size_t stride = size_t{1} + data[1] % 16;
  m1::Utf8Stream stream;
  std::string text =
      stream.Push(absl::string_view(reinterpret_cast<const char*>(data) + 2, size - 2));
  text += stream.End();
  Require(m1::IsValidUtf8(text));

  const Result whole = Parse(text, tools_enabled, text.size() + 1);
  const Result cut = Parse(text, tools_enabled, stride);
  Require(whole.channels.size() == text.size());
  Require(whole.channels == cut.channels);
  Require(whole.events.size() == cut.events.size());
  for (size_t i = 0; i < whole.events.size(); ++i) {
    const m1::OutputEvent& a = whole.events[i];
    const m1::OutputEvent& b = cut.events[i];
    Require(a.channel == b.channel && a.text == b.text && a.name == b.name &&
            a.arguments_json == b.arguments_json);
  }
  return 0;
}
