// The requests whose streams are open, by request id.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"

namespace m1 {

class LiveCall {
 public:
  virtual ~LiveCall() = default;
  // Ends the answer early, with Finish(CANCELLED).
  virtual void Abort() = 0;
  // Gives up a reader that has not read for too long.
  virtual void CheckReader(absl::Time now) = 0;
};

// Thread-safe. Calls are called without the registry's lock.
class CallRegistry {
 public:
  // Errors: AlreadyExists when a call of that id is open. The registry and the call itself own it.
  absl::Status Add(const std::string& request_id, std::shared_ptr<LiveCall> call);
  void Remove(const std::string& request_id);

  // False when no call of that id is open.
  bool Abort(const std::string& request_id);
  void CheckReaders(absl::Time now);
  size_t size() const;

 private:
  mutable Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<LiveCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
