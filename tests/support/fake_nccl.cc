#include "tests/support/fake_nccl.h"

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/nccl/runtime.h"
#include "common/shm/handshake.h"
#include "tests/support/simulated_gpu.h"

namespace m1::nccl {
namespace {

// ncclSystemError, ncclInvalidUsage, ncclRemoteError
constexpr Result kSystemError = 2;
constexpr Result kInvalidUsage = 5;
constexpr Result kRemoteError = 6;
constexpr size_t kPacketBytes = size_t{32} << 10;

struct Globals {
  std::mutex mutex;
  FakeNcclFaults faults;
  std::map<std::string, UniqueFd> listeners;  // by the name in the id
  std::atomic<int64_t> num_communicators = 0;
  std::atomic<int64_t> num_transfers = 0;
};

Globals& Get() {
  static auto* globals = new Globals;
  return *globals;
}

// Of one communicator; transfers under way hold it too.
struct State {
  int num_ranks = 0;
  int rank = 0;
  std::string name;
  UniqueFd listener;
  UniqueFd socket;
  std::atomic<bool> is_connected = false;
  std::atomic<bool> is_aborted = false;
  std::atomic<Result> error = kSuccess;
  std::deque<std::vector<char>> own;  // messages of a rank to itself
  // A call whose transfer is not in its stream yet, and for how many calls of Progress.
  std::function<void()> pending;
  int pending_calls = 0;
  int num_calls = 0;
};

bool TakeGoodTransfer() {
  const std::lock_guard lock(Get().mutex);
  if (Get().faults.good_transfers <= 0) return false;
  --Get().faults.good_transfers;
  return true;
}

FakeNcclFaults Faults() {
  const std::lock_guard lock(Get().mutex);
  return Get().faults;
}

// One transfer over the socket: its size, its bytes in packets, an acknowledgement.
class SocketTransfer {
 public:
  SocketTransfer(std::shared_ptr<State> state, bool is_send, char* data, size_t bytes)
      : state_(std::move(state)), is_send_(is_send), data_(data), bytes_(bytes) {}

  // False when it is not done yet.
  bool Continue() {
    if (state_->is_aborted) return true;
    if (!is_counted_) {
      is_counted_ = true;
      is_good_ = TakeGoodTransfer();
      if (!is_good_ && Faults().error) state_->error = kRemoteError;
    }
    if (!is_good_ || state_->error != kSuccess) return false;
    if (!(is_send_ ? ContinueSend() : ContinueReceive())) return false;
    ++Get().num_transfers;
    return true;
  }

 private:
  int fd() const { return state_->socket.get(); }

  bool ContinueSend() {
    if (!is_sized_) {
      if (send(fd(), &bytes_, sizeof(bytes_), MSG_NOSIGNAL) != sizeof(bytes_)) return false;
      is_sized_ = true;
    }
    while (done_ < bytes_) {
      const size_t packet = std::min(kPacketBytes, bytes_ - done_);
      if (send(fd(), data_ + done_, packet, MSG_NOSIGNAL) != static_cast<ssize_t>(packet)) {
        return false;
      }
      done_ += packet;
    }
    char acknowledgement = 0;
    return recv(fd(), &acknowledgement, 1, 0) == 1;
  }

  bool ContinueReceive() {
    if (!is_sized_) {
      size_t sent = 0;
      if (recv(fd(), &sent, sizeof(sent), 0) != sizeof(sent)) return false;
      if (sent != bytes_) {
        state_->error = kInvalidUsage;
        return false;
      }
      is_sized_ = true;
    }
    while (done_ < bytes_) {
      const ssize_t got = recv(fd(), data_ + done_, bytes_ - done_, 0);
      if (got <= 0) return false;
      done_ += static_cast<size_t>(got);
    }
    if (Faults().corrupts) data_[0] = static_cast<char>(data_[0] + 1);
    const char acknowledgement = 1;
    return send(fd(), &acknowledgement, 1, MSG_NOSIGNAL) == 1;
  }

  const std::shared_ptr<State> state_;
  const bool is_send_;
  char* const data_;
  const size_t bytes_;
  size_t done_ = 0;
  bool is_counted_ = false;
  bool is_good_ = false;
  bool is_sized_ = false;
};

bool ContinueOwn(State& state, bool is_send, char* data, size_t bytes) {
  if (state.is_aborted) return true;
  if (is_send) {
    state.own.emplace_back(data, data + bytes);
    return true;
  }
  if (state.own.empty() || state.own.front().size() != bytes) return false;
  std::copy(state.own.front().begin(), state.own.front().end(), data);
  state.own.pop_front();
  return true;
}

void Enqueue(const std::shared_ptr<State>& state, bool is_send, char* data, size_t bytes,
             cuda::Stream stream) {
  cuda::SimulatedWork work;
  if (state->num_ranks == 1) {
    work = [=] { return ContinueOwn(*state, is_send, data, bytes); };
  } else {
    work = [transfer = std::make_shared<SocketTransfer>(state, is_send, data, bytes)] {
      return transfer->Continue();
    };
  }
  if (cuda::EnqueueSimulated(stream, std::move(work)) != 0) state->error = kSystemError;
}

// What Progress does towards a connection.
void Connect(State& state) {
  if (Faults().never_connects) return;
  if (state.num_ranks == 1) {
    state.is_connected = true;
  } else if (state.listener) {
    state.socket =
        UniqueFd(accept4(state.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    state.is_connected = static_cast<bool>(state.socket);
  } else {
    absl::StatusOr<UniqueFd> socket = ConnectAbstract(state.name);
    if (!socket.ok()) return;
    state.socket = *std::move(socket);
    state.is_connected = true;
  }
}

}  // namespace

void SetFakeNcclFaults(const FakeNcclFaults& faults) {
  const std::lock_guard lock(Get().mutex);
  Get().faults = faults;
}
int64_t NumFakeCommunicators() { return Get().num_communicators; }
int64_t NumFakeTransfers() { return Get().num_transfers; }

}  // namespace m1::nccl

struct ncclComm {
  std::shared_ptr<m1::nccl::State> state;
};

namespace m1::nccl {

Result NewUniqueId(UniqueId* id) {
  if (Faults().id_fails) return kSystemError;
  const std::string name = absl::StrCat("m1-fake-nccl-", absl::BytesToHexString(RandomBytes(16)));
  absl::StatusOr<UniqueFd> listener = ListenAbstract(name);
  if (!listener.ok()) return kSystemError;
  id->bytes.fill('\0');
  std::copy(name.begin(), name.end(), id->bytes.begin());
  const std::lock_guard lock(Get().mutex);
  Get().listeners[name] = *std::move(listener);
  return kSuccess;
}

Result StartCommunicator(const UniqueId& id, int num_ranks, int rank, Communicator* communicator) {
  auto state = std::make_shared<State>();
  state->num_ranks = num_ranks;
  state->rank = rank;
  state->name.assign(id.bytes.data(), strnlen(id.bytes.data(), id.bytes.size()));
  if (rank == 0) {
    const std::lock_guard lock(Get().mutex);
    const auto found = Get().listeners.find(state->name);
    if (found == Get().listeners.end()) return kSystemError;
    state->listener = std::move(found->second);
    Get().listeners.erase(found);
  }
  *communicator = new ncclComm{std::move(state)};
  ++Get().num_communicators;
  return kInProgress;
}

Result Progress(Communicator communicator) {
  State& state = *communicator->state;
  if (state.error != kSuccess) return state.error;
  if (!state.is_connected) Connect(state);
  if (!state.is_connected) return kInProgress;
  if (state.pending != nullptr) {
    if (--state.pending_calls > 0) return kInProgress;
    std::exchange(state.pending, nullptr)();
  }
  return kSuccess;
}

namespace {

Result Transfer(bool is_send, void* data, size_t bytes, int peer, Communicator communicator,
                cuda::Stream stream) {
  const std::shared_ptr<State> state = communicator->state;
  M1_CHECK(state->is_connected && state->pending == nullptr);
  M1_CHECK(peer == (state->num_ranks == 1 ? 0 : 1 - state->rank));
  const auto enqueue = [=] { Enqueue(state, is_send, static_cast<char*>(data), bytes, stream); };
  // Connections between ranks are made with the first transfers.
  if (state->num_ranks > 1 && state->num_calls++ < 2) {
    state->pending = enqueue;
    state->pending_calls = 2;
    return kInProgress;
  }
  enqueue();
  return kSuccess;
}

}  // namespace

Result Send(const void* data, size_t bytes, int peer, Communicator communicator,
            cuda::Stream stream) {
  return Transfer(true, const_cast<void*>(data), bytes, peer, communicator, stream);
}
Result Receive(void* data, size_t bytes, int peer, Communicator communicator, cuda::Stream stream) {
  return Transfer(false, data, bytes, peer, communicator, stream);
}
Result GroupStart() { return kSuccess; }
Result GroupEnd() { return kSuccess; }

void Abort(Communicator communicator) {
  communicator->state->is_aborted = true;
  communicator->state->pending = nullptr;  // it holds the state
  --Get().num_communicators;
  delete communicator;
}

const char* ResultName(Result result) {
  switch (result) {
    case kRemoteError:
      return "remote process exited or there was a network error";
    case kInvalidUsage:
      return "invalid usage";
    default:
      return "unhandled system error";
  }
}

}  // namespace m1::nccl
