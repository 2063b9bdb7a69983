#include "common/rpc/process.h"

#include <signal.h>
#include <unistd.h>

#include <thread>

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

}  // namespace

absl::Status InitProcess(absl::string_view log_level) {
  const sigset_t signals = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  LogLevel level = LogLevel::kInfo;
  if (!ParseLogLevel(log_level, &level)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--log_level \"", log_level, "\" is none of error, warning, info, debug, trace"));
  }
  SetLogLevel(level);
  return absl::OkStatus();
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
  if (!status.ok()) {
    M1_LOG(kError) << status.message();
  }
  return ExitCodeFor(status);
}

}  // namespace m1
