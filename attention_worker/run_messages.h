// The messages of the Run stream to the engine's types and back.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

#include "attention_worker/engine.h"
#include "m1/v1/attention.pb.h"

namespace m1 {

// Errors: InvalidArgument for a command that is none of a running stream's.
absl::StatusOr<SequenceCommand> ParseCommand(v1::RunCommand& command);

v1::RunEvent StepEvent(const StepEvents& events);

// `message` for a string field, which must be UTF-8 or the receiver cannot parse the message. Our
// own messages are ASCII, but they may quote what a peer sent: each byte beyond becomes '?'.
std::string ToAscii(absl::string_view message);

}  // namespace m1
