// The messages of the Run stream to the engine's types and back.
#pragma once

#include <cstdint>

#include "attention_worker/engine.h"
#include "m1/v1/attention.pb.h"

namespace m1 {

// Errors: InvalidArgument for a command that is none of a running stream's.
absl::StatusOr<SequenceCommand> ParseCommand(v1::RunCommand& command);

v1::RunEvent StepEvent(const StepEvents& events);

}  // namespace m1
