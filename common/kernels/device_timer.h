// How long operations take where they happen, which is not how long it takes to ask for them.
#pragma once

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace m1 {

// Of one backend, on its thread.
class DeviceTimer {
 public:
  using Done = std::function<void(absl::Duration)>;

  virtual ~DeviceTimer() = default;
  // The operations from Begin to End, which come by turns; a Begin without End is forgotten. Never
  // waits: `done` is called with their time by a Begin or End that finds them done, this one or a
  // later one, in order; never if the device fails.
  virtual void Begin() = 0;
  virtual void End(Done done) = 0;
};

// Of operations that are done when they return.
class HostTimer final : public DeviceTimer {
 public:
  void Begin() override { begin_ = absl::Now(); }
  void End(Done done) override { done(absl::Now() - begin_); }

 private:
  absl::Time begin_;
};

}  // namespace m1
