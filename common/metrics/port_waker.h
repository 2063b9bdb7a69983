// Makes a server that looks at its stop flag only between connections look at it at once.
#pragma once

#include <string>
#include <thread>

namespace m1 {

// From construction to destruction: connects to a port of this host every few milliseconds, and
// sends nothing.
class PortWaker {
 public:
  // `address`: an IP address, also one that stands for all of the host (0.0.0.0, ::).
  PortWaker(std::string address, int port);

 private:
  std::jthread thread_;
};

}  // namespace m1
