#include "common/rpc/address_watcher.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "common/base/log.h"

namespace m1 {
namespace {

std::string NumericAddress(const addrinfo& info, const std::string& port) {
  std::array<char, NI_MAXHOST> host = {};
  if (getnameinfo(info.ai_addr, info.ai_addrlen, host.data(), host.size(), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return "";
  }
  return info.ai_family == AF_INET6 ? absl::StrCat("[", host.data(), "]:", port)
                                    : absl::StrCat(host.data(), ":", port);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ResolveWithSystem(const std::string& name,
                                                           const std::string& port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(name.c_str(), port.c_str(), &hints, &list);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot resolve ", name, ": ", gai_strerror(error)));
  }
  std::vector<std::string> addresses;
  for (const addrinfo* info = list; info != nullptr; info = info->ai_next) {
    std::string address = NumericAddress(*info, port);
    if (!address.empty()) addresses.push_back(std::move(address));
  }
  freeaddrinfo(list);
  // The order of answers rotates; a sorted list changes only when its content does.
  std::sort(addresses.begin(), addresses.end());
  return addresses;
}

AddressWatcher::AddressWatcher(std::vector<std::string> addresses, absl::Duration interval,
                               AddressResolver resolver, Callback callback)
    : interval_(interval), resolver_(std::move(resolver)), callback_(std::move(callback)) {
  bool has_names = false;
  for (const std::string& address : addresses) {
    absl::string_view rest = address;
    const size_t colon = rest.rfind(':');
    if (absl::ConsumePrefix(&rest, "dns:///") && colon != absl::string_view::npos) {
      entries_.push_back({address.substr(7, colon - 7), address.substr(colon + 1), {}});
      has_names = true;
    } else {
      entries_.push_back({"", "", {address}});
    }
  }
  if (has_names) {
    thread_ = std::thread([this] { Loop(); });
  } else {
    Report();
  }
}

AddressWatcher::~AddressWatcher() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

void AddressWatcher::Loop() {
  while (true) {
    ResolveAll();
    Report();
    const absl::Time next = absl::Now() + interval_;
    MutexLock lock(&mutex_);
    while (!stop_ && absl::Now() < next) changed_.WaitUntil(&mutex_, next);
    if (stop_) return;
  }
}

void AddressWatcher::ResolveAll() {
  for (Entry& entry : entries_) {
    if (entry.name.empty()) continue;
    absl::StatusOr<std::vector<std::string>> resolved = resolver_(entry.name, entry.port);
    if (resolved.ok()) {
      entry.resolved = *std::move(resolved);
    } else {
      M1_VLOG(1) << resolved.status().message();
    }
  }
}

void AddressWatcher::Report() {
  std::vector<std::string> addresses;
  for (const Entry& entry : entries_) {
    for (const std::string& address : entry.resolved) {
      if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) {
        addresses.push_back(address);
      }
    }
  }
  if (addresses == reported_) return;
  reported_ = addresses;
  callback_(addresses);
}

}  // namespace m1
