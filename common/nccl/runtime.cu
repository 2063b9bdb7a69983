#include <dlfcn.h>
#include <nccl.h>

#include <cstring>
#include <string>

#include "common/nccl/runtime.h"

namespace m1::nccl {
namespace {

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(kSuccess == ncclSuccess && kInProgress == ncclInProgress);
static_assert(kNoLibrary >= ncclNumResults);
#if NCCL_VERSION_CODE < NCCL_VERSION(2, 18, 0)
#error "NCCL 2.18 or newer: communicators that do not block"
#endif

// Loaded when it is first asked for, so that the workers run where there is none.
struct Library {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  std::string error;  // empty: it is there
};

template <typename Function>
void Find(void* handle, const char* name, Function* function, std::string* error) {
  *function = reinterpret_cast<Function>(dlsym(handle, name));
  if (*function == nullptr && error->empty()) *error = std::string("libnccl.so.2 has no ") + name;
}

Library Load() {
  Library library;
  void* handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.error = dlerror();
    return library;
  }
  std::string& error = library.error;
  Find(handle, "ncclGetUniqueId", &library.get_unique_id, &error);
  Find(handle, "ncclCommInitRankConfig", &library.comm_init_rank_config, &error);
  Find(handle, "ncclCommGetAsyncError", &library.comm_get_async_error, &error);
  Find(handle, "ncclSend", &library.send, &error);
  Find(handle, "ncclRecv", &library.recv, &error);
  Find(handle, "ncclGroupStart", &library.group_start, &error);
  Find(handle, "ncclGroupEnd", &library.group_end, &error);
  Find(handle, "ncclCommAbort", &library.comm_abort, &error);
  Find(handle, "ncclGetErrorString", &library.get_error_string, &error);
  return library;
}

const Library& Nccl() {
  static const Library* const library = new Library(Load());
  return *library;
}

}  // namespace

Result NewUniqueId(UniqueId* id) {
  if (!Nccl().error.empty()) return kNoLibrary;
  ncclUniqueId made;
  const ncclResult_t result = Nccl().get_unique_id(&made);
  if (result == ncclSuccess) std::memcpy(id->bytes.data(), made.internal, sizeof(made));
  return result;
}

Result StartCommunicator(const UniqueId& id, int num_ranks, int rank, Communicator* communicator) {
  if (!Nccl().error.empty()) return kNoLibrary;
  ncclUniqueId made;
  std::memcpy(made.internal, id.bytes.data(), sizeof(made));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return Nccl().comm_init_rank_config(communicator, num_ranks, made, rank, &config);
}

Result Progress(Communicator communicator) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t result = Nccl().comm_get_async_error(communicator, &state);
  return result != ncclSuccess ? result : state;
}

Result Send(const void* data, size_t bytes, int peer, Communicator communicator,
            cuda::Stream stream) {
  return Nccl().send(data, bytes, ncclInt8, peer, communicator, stream);
}
Result Receive(void* data, size_t bytes, int peer, Communicator communicator, cuda::Stream stream) {
  return Nccl().recv(data, bytes, ncclInt8, peer, communicator, stream);
}
Result GroupStart() { return Nccl().group_start(); }
Result GroupEnd() { return Nccl().group_end(); }

void Abort(Communicator communicator) { Nccl().comm_abort(communicator); }

const char* ResultName(Result result) {
  if (!Nccl().error.empty()) return Nccl().error.c_str();
  return Nccl().get_error_string(static_cast<ncclResult_t>(result));
}

}  // namespace m1::nccl
