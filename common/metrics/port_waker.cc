#include "common/metrics/port_waker.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace m1 {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(5);

// Null when the address is none.
std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> Resolve(const std::string& address, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  if (getaddrinfo(address.c_str(), absl::StrCat(port).c_str(), &hints, &list) != 0) list = nullptr;
  return {list, &freeaddrinfo};
}

}  // namespace

PortWaker::PortWaker(std::string address, int port)
    : thread_([address = std::move(address), port](const std::stop_token& stop) {
        const auto target = Resolve(address, port);
        while (target != nullptr && !stop.stop_requested()) {
          const int peer = socket(target->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
          // What comes of it does not matter: the connection wakes the server, or there is none.
          if (peer >= 0) static_cast<void>(connect(peer, target->ai_addr, target->ai_addrlen));
          absl::SleepFor(kInterval);
          if (peer >= 0) close(peer);
        }
      }) {}

}  // namespace m1
