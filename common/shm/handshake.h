// How an attention worker and an expert worker come to share memory. The expert worker offers, over
// gRPC, an abstract unix socket and a token. The attention worker connects and passes its memory
// and its doorbell; the expert worker answers with its own doorbell, or why not. The socket then
// stays open and silent: its hang-up says that the other process is gone. Nothing has a name in a
// file system, so nothing is left behind.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/shm/shared_memory.h"
#include "common/shm/slots.h"

namespace m1 {

inline constexpr int64_t kDoorbellBytes = 4096;  // of the memory that holds DoorbellWords
inline constexpr size_t kShmTokenBytes = 16;

// What an expert worker offers.
struct ShmOffer {
  std::string socket;   // name of an abstract unix socket
  std::string token;    // kShmTokenBytes random bytes
  std::string boot_id;  // of the host
};

// Random bytes from the system.
std::string RandomBytes(size_t size);
// The same in all containers of a host, another after each boot; empty when it cannot be read.
std::string BootId();

// All sockets are non-blocking and keep the borders of messages. Errors: Unavailable naming the
// call and what the system said.
absl::StatusOr<UniqueFd> ListenAbstract(const std::string& name);
absl::StatusOr<UniqueFd> ConnectAbstract(const std::string& name);
// True when the other end is gone, or sent what it never sends after the handshake.
bool HungUp(int socket);
// PermissionDenied unless the process at the other end runs as our user.
absl::Status CheckSameUser(int socket);

// Attention worker: the connection's memory and where it wants to be woken.
absl::Status SendHello(int socket, absl::string_view token, const SlotLayout& layout,
                       const SharedMemory& memory, const SharedMemory& doorbell);

struct ShmHello {
  SlotLayout layout;
  SharedMemory memory;
  SharedMemory doorbell;
};
// Expert worker: the hello that has come; nullopt when none has yet. Errors: Unavailable when the
// socket broke, InvalidArgument or PermissionDenied when the hello is not one to accept.
absl::StatusOr<std::optional<ShmHello>> ReceiveHello(int socket, absl::string_view token);

// Expert worker: accepts, with its own doorbell, or refuses.
absl::Status SendWelcome(int socket, const SharedMemory& doorbell);
void SendRefusal(int socket, const absl::Status& reason);
// Attention worker: the expert worker's doorbell; nullopt when no answer has come yet. Errors:
// Unavailable when the socket broke or the worker refuses, InvalidArgument when the answer is none.
absl::StatusOr<std::optional<SharedMemory>> ReceiveWelcome(int socket);

}  // namespace m1
