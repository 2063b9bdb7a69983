#include "tools/m1/http_probe.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr size_t kMaxBodyBytes = 4096;
constexpr size_t kMaxHeadBytes = 16384;
constexpr absl::string_view kEndOfHead = "\r\n\r\n";

absl::Status TooLate() { return absl::UnavailableError("no answer in time"); }

absl::Status SystemError(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

class Socket {
 public:
  explicit Socket(int family)
      : fd_(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;

  int fd() const { return fd_; }
  // Until it can be read (POLLIN) or written (POLLOUT).
  absl::Status WaitFor(int16_t events, absl::Time deadline) const {
    while (true) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return TooLate();
      pollfd wanted = {fd_, events, 0};
      const auto left_ms =
          static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))));
      const int ready = poll(&wanted, 1, left_ms);
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return SystemError("poll", errno);
    }
  }

 private:
  int fd_;
};

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// A name that is looked up; lives until that is done.
struct Lookup {
  std::string host;
  std::string port;
  addrinfo hints = {};
  gaicb request = {};
};

absl::StatusOr<AddressList> Resolve(const HttpTarget& target, absl::Time deadline) {
  auto lookup = std::make_unique<Lookup>();
  lookup->host = target.host;
  lookup->port = absl::StrCat(target.port);
  lookup->hints.ai_socktype = SOCK_STREAM;
  lookup->request.ar_name = lookup->host.c_str();
  lookup->request.ar_service = lookup->port.c_str();
  lookup->request.ar_request = &lookup->hints;
  gaicb* request = &lookup->request;
  int error = getaddrinfo_a(GAI_NOWAIT, &request, 1, nullptr);
  while (error == 0 && (error = gai_error(request)) == EAI_INPROGRESS) {
    const timespec left = absl::ToTimespec(std::max(deadline - absl::Now(), absl::ZeroDuration()));
    error = gai_suspend(&request, 1, &left);
    if (error == EAI_AGAIN && absl::Now() >= deadline) {
      // A lookup under way cannot be ended, and goes on using its memory.
      if (gai_cancel(request) == EAI_NOTCANCELED) static_cast<void>(lookup.release());
      return TooLate();
    }
    error = 0;
  }
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("no connection: ", gai_strerror(error)));
  }
  return AddressList(request->ar_result, &freeaddrinfo);
}

absl::StatusOr<Socket> ConnectTo(const addrinfo& address, absl::Time deadline) {
  Socket peer(address.ai_family);
  if (peer.fd() < 0) return SystemError("no connection", errno);
  if (connect(peer.fd(), address.ai_addr, address.ai_addrlen) != 0 && errno != EINPROGRESS) {
    return SystemError("no connection", errno);
  }
  M1_RETURN_IF_ERROR(peer.WaitFor(POLLOUT, deadline));
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(peer.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return SystemError("no connection", error);
  return peer;
}

// To the first of its addresses that answers.
absl::StatusOr<Socket> Connect(const HttpTarget& target, absl::Time deadline) {
  M1_ASSIGN_OR_RETURN(const AddressList list, Resolve(target, deadline));
  absl::Status failed = absl::UnavailableError("no connection: no address");
  for (const addrinfo* address = list.get(); address != nullptr; address = address->ai_next) {
    absl::StatusOr<Socket> peer = ConnectTo(*address, deadline);
    if (peer.ok()) return peer;
    failed = peer.status();
  }
  return failed;
}

absl::Status Send(const Socket& peer, absl::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    M1_RETURN_IF_ERROR(peer.WaitFor(POLLOUT, deadline));
    const ssize_t sent = send(peer.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno != EAGAIN && errno != EINTR) {
      return SystemError("no answer", errno);
    }
  }
  return absl::OkStatus();
}

// Nullopt: until the connection ends.
std::optional<size_t> ContentLength(absl::string_view head) {
  for (const absl::string_view line : absl::StrSplit(head, "\r\n")) {
    absl::string_view value = line;
    size_t length = 0;
    if (absl::StartsWithIgnoreCase(line, "content-length:")) {
      value.remove_prefix(value.find(':') + 1);
      if (absl::SimpleAtoi(value, &length)) return length;
    }
  }
  return std::nullopt;
}

// Whether no more of the answer is wanted.
bool IsEnough(absl::string_view answer) {
  const size_t end = answer.find(kEndOfHead);
  if (end == answer.npos) return answer.size() > kMaxHeadBytes;
  const size_t wanted = ContentLength(answer.substr(0, end)).value_or(kMaxBodyBytes);
  return answer.size() - end - kEndOfHead.size() >= std::min(wanted, kMaxBodyBytes);
}

absl::StatusOr<std::string> ReadAnswer(const Socket& peer, absl::Time deadline) {
  std::string answer;
  while (!IsEnough(answer)) {
    M1_RETURN_IF_ERROR(peer.WaitFor(POLLIN, deadline));
    char bytes[4096];
    const ssize_t size = recv(peer.fd(), bytes, sizeof(bytes), 0);
    if (size == 0) break;
    if (size > 0) {
      answer.append(bytes, static_cast<size_t>(size));
    } else if (errno != EAGAIN && errno != EINTR) {
      return SystemError("no answer", errno);
    }
  }
  return answer;
}

// "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nalive\n"
absl::StatusOr<HttpAnswer> ParseAnswer(absl::string_view text) {
  const size_t end = text.find(kEndOfHead);
  absl::string_view line = text.substr(0, text.find("\r\n"));
  HttpAnswer answer;
  const bool is_http = absl::ConsumePrefix(&line, "HTTP/1.") && line.size() >= 5 &&
                       line[1] == ' ' && absl::SimpleAtoi(line.substr(2, 3), &answer.status);
  if (end == text.npos || !is_http || answer.status < 100) {
    return absl::UnavailableError("no answer in HTTP");
  }
  const size_t wanted = ContentLength(text.substr(0, end)).value_or(kMaxBodyBytes);
  answer.body = std::string(text.substr(end + kEndOfHead.size(), std::min(wanted, kMaxBodyBytes)));
  return answer;
}

absl::StatusOr<HttpAnswer> GetUntil(const HttpTarget& target, const std::string& path,
                                    absl::Time deadline) {
  M1_ASSIGN_OR_RETURN(const Socket peer, Connect(target, deadline));
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: ", target.host, "\r\n\r\n");
  M1_RETURN_IF_ERROR(Send(peer, request, deadline));
  M1_ASSIGN_OR_RETURN(const std::string answer, ReadAnswer(peer, deadline));
  return ParseAnswer(answer);
}

}  // namespace

absl::StatusOr<HttpTarget> ParseHttpTarget(absl::string_view text) {
  HttpTarget target;
  const size_t colon = text.rfind(':');
  absl::string_view host = text.substr(0, std::min(colon, text.size()));
  const bool in_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (in_brackets) host = host.substr(1, host.size() - 2);
  const bool host_is_one = !host.empty() && (in_brackets || host.find_first_of(":[]") == host.npos);
  if (colon == text.npos || !host_is_one ||
      !absl::SimpleAtoi(text.substr(colon + 1), &target.port) || target.port < 1 ||
      target.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is no HOST:PORT with a port of 1..65535"));
  }
  target.host = std::string(host);
  return target;
}

absl::StatusOr<HttpAnswer> HttpGet(const HttpTarget& target, const std::string& path,
                                   absl::Duration timeout) {
  absl::StatusOr<HttpAnswer> answer = GetUntil(target, path, absl::Now() + timeout);
  if (!answer.ok()) return AddContext(answer.status(), absl::StrCat(target.host, ":", target.port));
  return answer;
}

}  // namespace m1
