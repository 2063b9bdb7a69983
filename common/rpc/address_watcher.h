// Turns `dns:///name:port` into the addresses behind it, again and again, so that workers join and
// leave without a restart. Other addresses stay as they are.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"

namespace m1 {

// All IP addresses of the name, each as "ip:port". May block for seconds.
using AddressResolver = std::function<absl::StatusOr<std::vector<std::string>>(
    const std::string& name, const std::string& port)>;

// getaddrinfo.
absl::StatusOr<std::vector<std::string>> ResolveWithSystem(const std::string& name,
                                                           const std::string& port);

class AddressWatcher {
 public:
  // Gets the whole list, without doubles, in configured order; on the watcher's thread, first at
  // once. Not called again while the list stays the same. A name that cannot be resolved keeps its
  // last addresses.
  using Callback = std::function<void(const std::vector<std::string>&)>;

  // Starts a thread only when `addresses` holds a dns:/// name; otherwise calls back from here,
  // once.
  AddressWatcher(std::vector<std::string> addresses, absl::Duration interval,
                 AddressResolver resolver, Callback callback);
  // Waits for a resolution under way.
  ~AddressWatcher();
  AddressWatcher(const AddressWatcher&) = delete;
  AddressWatcher& operator=(const AddressWatcher&) = delete;

 private:
  struct Entry {
    std::string name;  // empty: a plain address
    std::string port;
    std::vector<std::string> resolved;
  };

  void Loop();
  void ResolveAll();
  void Report();

  const absl::Duration interval_;
  const AddressResolver resolver_;
  const Callback callback_;
  std::vector<Entry> entries_;         // the thread's own, after construction
  std::vector<std::string> reported_;  // likewise
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

}  // namespace m1
