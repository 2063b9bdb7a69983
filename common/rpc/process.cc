#include "common/rpc/process.h"

#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "common/base/log.h"

namespace m1 {
namespace {

sigset_t TerminationSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

int WaitForOne() {
  const sigset_t signals = TerminationSignals();
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  return signal;
}

// Abseil ends the process with 1 for bad flags and for --help alike.
struct ParseExit {
  bool parsing = true;
  int code = 2;
};

void ReplaceExitCode(int, void* arg) {
  const auto* exit = static_cast<const ParseExit*>(arg);
  if (!exit->parsing) return;
  std::fflush(nullptr);
  _exit(exit->code);
}

}  // namespace

void ParseFlags(int argc, char** argv) {
  // Our flags are declared in main.cc and *_flags.cc; without this --help would show none.
  absl::FlagsUsageConfig usage;
  usage.contains_help_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "/main.cc") || absl::EndsWith(file, "_flags.cc");
  };
  usage.contains_helpshort_flags = usage.contains_help_flags;
  absl::SetFlagsUsageConfig(usage);
  // Lives as long as the process: exit handlers cannot be taken back.
  static ParseExit exit_state;
  ParseExit* const exit = &exit_state;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view word = argv[i];
    if (absl::StartsWith(word, "--help") || absl::StartsWith(word, "-help")) exit->code = 0;
  }
  on_exit(ReplaceExitCode, exit);
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  if (words.size() > 1) {
    std::fprintf(stderr, "ERROR: \"%s\" is not a flag\n", words[1]);
    ::exit(2);
  }
  exit->parsing = false;
}

absl::Status InitProcess(absl::string_view log_level) {
  const sigset_t signals = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  AvoidSlowDefaults();
  LogLevel level = LogLevel::kInfo;
  if (!ParseLogLevel(log_level, &level)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--log_level \"", log_level, "\" is none of error, warning, info, debug, trace"));
  }
  SetLogLevel(level);
  return absl::OkStatus();
}

void AvoidSlowDefaults() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

bool TerminationRequested() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

int WaitForTerminationSignal() {
  const int signal = WaitForOne();
  M1_LOG(kInfo) << "stopping signal=" << (signal == SIGTERM ? "SIGTERM" : "SIGINT");
  std::thread([] {
    WaitForOne();
    _exit(1);
  }).detach();
  return signal;
}

int ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return 2;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kNotFound:
      return 3;
    default:
      return 1;
  }
}

int ExitWith(const absl::Status& status) {
  if (absl::IsCancelled(status) && TerminationRequested()) {
    M1_LOG(kInfo) << "stopped before it served: " << status.message();
    return 0;
  }
  if (!status.ok()) {
    M1_LOG(kError) << status.message();
  }
  return ExitCodeFor(status);
}

}  // namespace m1
