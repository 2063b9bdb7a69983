// What every server process does first and last.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

// absl::ParseCommandLine with our exit codes: bad flags, and words that are no flags, end the
// process with 2; --help with 0.
void ParseFlags(int argc, char** argv);

// Call next in main, before any thread: blocks SIGTERM and SIGINT (they are taken by
// WaitForTerminationSignal), ignores SIGPIPE, avoids slow defaults and sets the log level. Errors:
// InvalidArgument naming --log_level.
absl::Status InitProcess(absl::string_view log_level);

// Switches off abseil's mutex deadlock detector: the distribution's build runs it, and it costs
// microseconds on each of gRPC's locks. Makes malloc keep up to 64 MiB that were freed and take
// blocks below 32 MiB from there: by default each large message of gRPC's is mapped, faulted in
// page by page and unmapped.
void AvoidSlowDefaults();

// Waits for SIGTERM or SIGINT and returns which. From then on a second one ends the process at
// once, with exit code 1.
int WaitForTerminationSignal();

// True when one of the two arrived and nobody took it yet: for long work before the wait.
bool TerminationRequested();

// Of device_fault_exit.h.
inline constexpr int kDeviceFaultExitCode = 4;

// 0 OK; 2 InvalidArgument (flags, configuration); 3 DataLoss or NotFound (model files); else 1.
int ExitCodeFor(const absl::Status& status);

// Logs the error and returns ExitCodeFor: `return ExitWith(status);` in main. Long work that was
// Cancelled because of TerminationRequested is an orderly end: 0.
int ExitWith(const absl::Status& status);

}  // namespace m1
