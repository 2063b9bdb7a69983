// The gRPC side of an expert worker: Describe, and the Exchange streams of all attention workers on
// one completion queue with one thread. Decodes, checks, hands jobs to the engine, writes what it
// answers. Malformed frames get an error frame and the stream goes on. Beside a stream there may be
// a device link that carries its rows; a thread of its own takes those further.
//
//   ExchangeService service(options, &executor, &engine);
//   runner = ServerRunner::Start(options, {service.service()}, [&](auto& builder) {
//   service.AddQueue(builder); }); service.Start();
//   ...
//   service.Drain(); runner->Shutdown(grace); engine.Stop(); service.Stop();
#pragma once

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_builder.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "common/exchange/device_link.h"
#include "common/exchange/exchange.h"
#include "common/exchange/identity.h"
#include "common/shm/handshake.h"
#include "expert_worker/dispatch_limits.h"
#include "expert_worker/engine.h"
#include "m1/v1/exchange.grpc.pb.h"

namespace m1 {

struct ExchangeServiceOptions {
  WorkerIdentity identity;
  DispatchLimits limits;
  // Shared memory that Describe offers; nullopt: none.
  std::optional<ShmOffer> shared_memory;
  // Device links that Describe offers, for an executor in the device's memory; outlives the
  // service. Null: none.
  DeviceTransport* device_transport = nullptr;
  DeviceSlots device_slots;
  // A link that is not ready after so long is given up.
  absl::Duration device_timeout = absl::Seconds(60);
  // Dispatches of one stream that may be unanswered before reading from it pauses.
  int32_t max_unanswered = 16;

  // Of the largest dispatch, for the server's limit: what is larger is not even buffered.
  int max_message_bytes() const;
};

class ExchangeStream;

class ExchangeService {
 public:
  // The executor (only its const, thread-safe part is used here) and the engine outlive the
  // service.
  ExchangeService(const ExchangeServiceOptions& options, const ExpertExecutor* executor,
                  Engine* engine);
  // Stop was called if Start was.
  ~ExchangeService();

  grpc::Service* service();
  void AddQueue(grpc::ServerBuilder& builder);
  // Once the server runs.
  void Start();
  // Of attention workers that are connected.
  size_t num_streams() const;
  // Streams take no more frames, answer what they took, and end with UNAVAILABLE.
  void Drain();
  // After the server was shut down and the engine stopped.
  void Stop();

 private:
  class Describer;
  friend class ExchangeStream;

  void Loop();
  // Called by streams on the loop's thread.
  void AcceptStream();
  void Remove(ExchangeStream* stream);
  // Takes device links further, on a thread of its own.
  void LinkLoop();
  // Called by streams: a link has something to do.
  void WakeLinks();

  const ExchangeServiceOptions options_;
  const ExpertExecutor* const executor_;
  Engine* const engine_;
  const std::unique_ptr<Describer> describer_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  mutable Mutex mutex_;
  std::set<std::shared_ptr<ExchangeStream>> streams_ ABSL_GUARDED_BY(mutex_);
  CondVar no_streams_;
  int64_t num_accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  Mutex link_mutex_;  // never held with another
  CondVar link_wake_;
  int64_t num_link_wakes_ ABSL_GUARDED_BY(link_mutex_) = 0;
  bool stop_links_ ABSL_GUARDED_BY(link_mutex_) = false;
  std::thread thread_;
  std::thread link_thread_;
};

}  // namespace m1
