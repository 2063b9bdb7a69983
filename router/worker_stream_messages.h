// Converts between the plain worker protocol and the messages of attention.proto.
#pragma once

#include "absl/status/statusor.h"

#include "m1/v1/attention.pb.h"
#include "router/worker_protocol.h"

namespace m1 {

v1::RunCommand ToProto(const WorkerCommand& command);

WorkerWelcome FromProto(const v1::Welcome& welcome);
// What makes no sense (an end without a cause, candidates without logprobs) becomes an error of its
// sequence, never of the process.
WorkerEvents FromProto(const v1::StepResult& step);

v1::WorkerLimits ToProto(const WorkerLimits& limits);

}  // namespace m1
