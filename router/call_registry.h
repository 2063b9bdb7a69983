// The requests whose streams are open, and which ids are in flight.
//
// A stream stays open after its answer's end is decided until the client has read it; its id is
// free for the next request from that moment.
#pragma once

#include <cstddef>
#include <functional>
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

// Thread-safe. Calls are called without the registry's lock, so a call may hold its own lock while
// it calls the registry.
class CallRegistry {
 public:
  // Errors: AlreadyExists when a call of that id is in flight. The registry and the call itself own
  // it.
  absl::Status Add(const std::string& request_id, std::shared_ptr<LiveCall> call);
  // `call` needs its id no longer. No effect when the id is another call's by now.
  void ReleaseId(const std::string& request_id, const LiveCall* call);
  // The stream of `call` is closed: forgets it, and its id if it still has one.
  void Remove(const std::string& request_id, const LiveCall* call);

  // False when no call of that id is in flight.
  bool Abort(const std::string& request_id);
  void CheckReaders(absl::Time now);
  size_t size() const;  // of open streams
  // Until no stream is open, the deadline, or `gives_up`; how many are open then.
  size_t WaitUntilEmpty(absl::Time deadline, const std::function<bool()>& gives_up = nullptr) const;

 private:
  mutable Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<LiveCall>> by_id_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<const LiveCall*, std::shared_ptr<LiveCall>> open_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
