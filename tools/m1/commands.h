// The subcommands of m1. Each takes the arguments after its name and returns the exit code of the
// process: 0 clean, 1 internal, 2 bad flags or configuration, 3 bad model files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace m1 {

// up.cc: a whole cluster on this machine, until Ctrl-C.
int RunUp(const std::vector<std::string>& args);
// generate.cc: one request.
int RunGenerate(const std::vector<std::string>& args);
// chat.cc: an interactive chat.
int RunChat(const std::vector<std::string>& args);
// health.cc: one probe of a server's metrics port.
int RunHealth(const std::vector<std::string>& args);
// checkpoint.cc: `m1 checkpoint make` and `fingerprint`.
int RunCheckpoint(const std::vector<std::string>& args);
// bench.cc: `m1 bench limits`, `kernels`, `serve`.
int RunBench(const std::vector<std::string>& args);

// quantize.cc: a checkpoint with integers for matrices.
int RunQuantize(const std::vector<std::string>& args);

// token.cc: a new bearer token and its line of --token_file.
int RunToken(const std::vector<std::string>& args);

// Prints `m1 COMMAND: message` to standard error, with the fields that a server names in its error,
// and returns the exit code for the status.
int FailCommand(const std::string& command, const absl::Status& status);

}  // namespace m1
