#include "common/shm/handshake.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr uint32_t kMagic = 0x4853314dU;  // "M1SH"
constexpr uint32_t kVersion = 1;
constexpr size_t kMaxFds = 8;

struct RawHello {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  std::array<char, kShmTokenBytes> token = {};
  int32_t num_slots = 0;
  int32_t zero = 0;
  int64_t slot_bytes = 0;
};

struct RawWelcome {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  std::array<char, 248> refusal = {};  // a text; empty: welcome
};

absl::Status SystemError(absl::string_view call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

absl::StatusOr<socklen_t> AbstractAddress(const std::string& name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  if (name.empty() || name.size() + 1 > sizeof(address->sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "socket name of ", name.size(), " bytes, want 1 to ", sizeof(address->sun_path) - 1));
  }
  std::memcpy(address->sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return SystemError("socket");
  return fd;
}

absl::Status SendMessage(int socket, const void* message, size_t num_bytes,
                         std::span<const int> fds) {
  iovec part = {const_cast<void*>(message), num_bytes};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL) != static_cast<ssize_t>(num_bytes)) {
    return SystemError("sendmsg");
  }
  return absl::OkStatus();
}

// False when nothing has come yet. Whatever descriptors came are owned by `fds`, also on errors.
absl::StatusOr<bool> ReceiveMessage(int socket, void* message, size_t num_bytes,
                                    std::vector<UniqueFd>* fds) {
  iovec part = {message, num_bytes};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t received = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (received < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    return SystemError("recvmsg");
  }
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    std::vector<int> numbers((item->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(numbers.data(), CMSG_DATA(item), numbers.size() * sizeof(int));
    for (const int number : numbers) fds->emplace_back(number);
  }
  if (received == 0) return absl::UnavailableError("the other end hung up");
  if (received != static_cast<ssize_t>(num_bytes) ||
      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("handshake of ", received, " bytes, want ", num_bytes));
  }
  return true;
}

absl::Status CheckMagic(uint32_t magic, uint32_t version) {
  if (magic == kMagic && version == kVersion) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("handshake of version ", version, ", want ", kVersion));
}

// Takes as long for any wrong token.
bool SameToken(const std::array<char, kShmTokenBytes>& got, absl::string_view wanted) {
  M1_CHECK(wanted.size() == kShmTokenBytes);
  unsigned difference = 0;
  for (size_t i = 0; i < kShmTokenBytes; ++i) {
    difference |= static_cast<unsigned>(static_cast<unsigned char>(got[i] ^ wanted[i]));
  }
  return difference == 0;
}

}  // namespace

std::string RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  M1_CHECK(getrandom(bytes.data(), size, 0) == static_cast<ssize_t>(size));
  return bytes;
}

std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

absl::StatusOr<UniqueFd> ListenAbstract(const std::string& name) {
  sockaddr_un address;
  M1_ASSIGN_OR_RETURN(const socklen_t size, AbstractAddress(name, &address));
  M1_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return SystemError("bind");
  }
  if (listen(fd.get(), SOMAXCONN) != 0) return SystemError("listen");
  return fd;
}

absl::StatusOr<UniqueFd> ConnectAbstract(const std::string& name) {
  sockaddr_un address;
  M1_ASSIGN_OR_RETURN(const socklen_t size, AbstractAddress(name, &address));
  M1_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return SystemError("connect to its unix socket");
  }
  return fd;
}

bool HungUp(int socket) {
  pollfd event = {socket, POLLIN | POLLRDHUP, 0};
  return poll(&event, 1, 0) != 0 && event.revents != 0;
}

absl::Status CheckSameUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return SystemError("SO_PEERCRED");
  }
  if (peer.uid == geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the other process runs as user ", peer.uid, ", this one as ", geteuid()));
}

absl::Status SendHello(int socket, absl::string_view token, const SlotLayout& layout,
                       const SharedMemory& memory, const SharedMemory& doorbell) {
  if (token.size() != kShmTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("token of ", token.size(), " bytes, want ", kShmTokenBytes));
  }
  RawHello hello;
  std::copy(token.begin(), token.end(), hello.token.begin());
  hello.num_slots = layout.num_slots;
  hello.slot_bytes = layout.slot_bytes;
  const std::array<int, 2> fds = {memory.fd(), doorbell.fd()};
  return SendMessage(socket, &hello, sizeof(hello), fds);
}

absl::StatusOr<std::optional<ShmHello>> ReceiveHello(int socket, absl::string_view token) {
  RawHello raw;
  std::vector<UniqueFd> fds;
  M1_ASSIGN_OR_RETURN(const bool received, ReceiveMessage(socket, &raw, sizeof(raw), &fds));
  if (!received) return std::optional<ShmHello>();
  M1_RETURN_IF_ERROR(CheckMagic(raw.magic, raw.version));
  if (!SameToken(raw.token, token)) return absl::PermissionDeniedError("the token is another");
  M1_RETURN_IF_ERROR(CheckSameUser(socket));
  if (fds.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("handshake with ", fds.size(), " descriptors, want 2"));
  }
  ShmHello hello;
  hello.layout = {raw.num_slots, raw.slot_bytes};
  M1_RETURN_IF_ERROR(hello.layout.Validate());
  M1_ASSIGN_OR_RETURN(hello.memory,
                      SharedMemory::Open(std::move(fds[0]), hello.layout.num_bytes()));
  M1_ASSIGN_OR_RETURN(hello.doorbell, SharedMemory::Open(std::move(fds[1]), kDoorbellBytes));
  return std::optional<ShmHello>(std::move(hello));
}

absl::Status SendWelcome(int socket, const SharedMemory& doorbell) {
  const RawWelcome welcome;
  const std::array<int, 1> fds = {doorbell.fd()};
  return SendMessage(socket, &welcome, sizeof(welcome), fds);
}

void SendRefusal(int socket, const absl::Status& reason) {
  RawWelcome refusal;
  const absl::string_view text = reason.message();
  // The last byte stays zero.
  std::copy_n(text.begin(), std::min(text.size(), refusal.refusal.size() - 1),
              refusal.refusal.begin());
  SendMessage(socket, &refusal, sizeof(refusal), {}).IgnoreError();
}

absl::StatusOr<std::optional<SharedMemory>> ReceiveWelcome(int socket) {
  RawWelcome raw;
  std::vector<UniqueFd> fds;
  M1_ASSIGN_OR_RETURN(const bool received, ReceiveMessage(socket, &raw, sizeof(raw), &fds));
  if (!received) return std::optional<SharedMemory>();
  M1_RETURN_IF_ERROR(CheckMagic(raw.magic, raw.version));
  raw.refusal.back() = '\0';
  if (raw.refusal.front() != '\0') {
    return absl::UnavailableError(absl::StrCat("the worker refused: ", raw.refusal.data()));
  }
  if (fds.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("handshake with ", fds.size(), " descriptors, want 1"));
  }
  M1_ASSIGN_OR_RETURN(SharedMemory doorbell, SharedMemory::Open(std::move(fds[0]), kDoorbellBytes));
  return std::optional<SharedMemory>(std::move(doorbell));
}

}  // namespace m1
