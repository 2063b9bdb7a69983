#include "common/rpc/device_fault_exit.h"

#include <unistd.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/base/log.h"
#include "common/rpc/process.h"
#include "common/rpc/server_runner.h"

namespace m1 {
namespace {

// For those who watch the health to hear of it.
constexpr absl::Duration kFarewell = absl::Milliseconds(200);

}  // namespace

void DeviceFaultExit::SetServer(ServerRunner* server) {
  MutexLock lock(&mutex_);
  server_ = server;
}

void DeviceFaultExit::End(const absl::Status& fault) {
  M1_LOG(kError) << "event=device_fault exit_code=" << kDeviceFaultExitCode << " error=\""
                 << fault.message() << "\"";
  {
    MutexLock lock(&mutex_);
    if (server_ != nullptr) {
      server_->SetServing(false);
      absl::SleepFor(kFarewell);
    }
  }
  _exit(kDeviceFaultExitCode);
}

}  // namespace m1
