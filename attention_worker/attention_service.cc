#include "attention_worker/attention_service.h"

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "attention_worker/run_messages.h"
#include "common/base/bounded_queue.h"
#include "common/base/log.h"
#include "common/rpc/grpc_status.h"

namespace m1 {
namespace {

// How far a router may be behind before it is taken for dead.
constexpr size_t kMaxQueuedEvents = 8192;
constexpr size_t kMaxQueuedBytes = 64 << 20;

// From the engine to the stream's writing thread.
class EventQueue final : public EventSink {
 public:
  explicit EventQueue(grpc::ServerContext* context) : context_(context) {}

  void OnStep(const StepEvents& events) override {
    v1::RunEvent event = StepEvent(events);
    const size_t bytes = event.ByteSizeLong();
    if (queued_bytes_ + bytes <= kMaxQueuedBytes && events_.TryPush(std::move(event))) {
      queued_bytes_ += bytes;
      return;
    }
    MutexLock lock(&mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

  std::optional<v1::RunEvent> Pop() { return events_.Pop(); }
  void OnWritten(const v1::RunEvent& event) { queued_bytes_ -= event.ByteSizeLong(); }

  // The context is gone after this.
  void Close() {
    events_.Close();
    MutexLock lock(&mutex_);
    context_ = nullptr;
  }

 private:
  BoundedQueue<v1::RunEvent> events_{kMaxQueuedEvents};
  std::atomic<size_t> queued_bytes_ = 0;
  Mutex mutex_;
  grpc::ServerContext* context_ ABSL_GUARDED_BY(mutex_);
};

v1::WorkerLimits LimitsMessage(const StepLimits& limits) {
  v1::WorkerLimits message;
  message.set_max_sequences(limits.max_sequences);
  message.set_kv_blocks(limits.kv_blocks);
  message.set_max_context_tokens(limits.max_context_tokens);
  message.set_max_step_tokens(limits.max_step_tokens);
  return message;
}

absl::Status CheckHello(const v1::RunCommand& command, const v1::WorkerIdentity& identity) {
  if (!command.has_hello()) {
    return absl::InvalidArgumentError("the first command of a Run stream is hello");
  }
  if (command.hello().protocol_revision() != identity.protocol_revision()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "protocol revision ", command.hello().protocol_revision(), " of router \"",
        command.hello().router_id(), "\", this worker has ", identity.protocol_revision()));
  }
  return absl::OkStatus();
}

}  // namespace

AttentionService::AttentionService(const v1::WorkerIdentity& identity, const StepLimits& limits,
                                   Engine* engine, const ExpertExchange* exchange)
    : identity_(identity), limits_(LimitsMessage(limits)), engine_(engine), exchange_(exchange) {}

grpc::Status AttentionService::Describe(grpc::ServerContext* /*context*/,
                                        const v1::DescribeAttentionRequest* /*request*/,
                                        v1::DescribeAttentionResponse* response) {
  const EngineStats stats = engine_->stats();
  *response->mutable_identity() = identity_;
  *response->mutable_limits() = limits_;
  response->mutable_load()->set_used_sequences(stats.used_sequences);
  response->mutable_load()->set_used_kv_blocks(stats.used_kv_blocks);
  response->mutable_load()->set_waiting_sequences(stats.waiting_sequences);
  for (const ExpertPeer& peer : exchange_->Peers()) {
    v1::ExpertPeerState* state = response->add_expert_peers();
    state->set_address(peer.address);
    state->set_connected(peer.connected);
    for (const int32_t expert : peer.experts) state->add_experts(expert);
    state->set_last_error(ToAscii(peer.last_error));
  }
  for (const int32_t expert : exchange_->MissingExperts()) response->add_missing_experts(expert);
  response->set_step_count(stats.step_count);
  response->set_mixed_step_count(stats.mixed_step_count);
  response->set_max_step_rows(stats.max_step_rows);
  response->set_preemption_count(stats.preemption_count);
  response->set_computed_token_count(stats.computed_token_count());
  response->set_fork_count(stats.fork_count);
  response->set_split_step_count(stats.split_step_count);
  return grpc::Status::OK;
}

grpc::Status AttentionService::Run(grpc::ServerContext* context,
                                   grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* stream) {
  v1::RunCommand command;
  if (!stream->Read(&command)) return grpc::Status::OK;
  if (absl::Status status = CheckHello(command, identity_); !status.ok()) {
    M1_LOG(kWarning) << "router refused: " << status.message();
    return ToGrpcStatus(status);
  }
  const std::string router_id = command.hello().router_id();
  M1_LOG(kInfo) << "router joined router_id=" << router_id;
  v1::RunEvent welcome;
  *welcome.mutable_welcome()->mutable_identity() = identity_;
  *welcome.mutable_welcome()->mutable_limits() = limits_;
  // No credits yet: the engine counts them and sends them with its first event.
  welcome.mutable_welcome()->mutable_credits();
  stream->Write(welcome);

  auto events = std::make_shared<EventQueue>(context);
  const int64_t client_id = engine_->AddClient(events);
  std::thread writer([&] {
    while (std::optional<v1::RunEvent> event = events->Pop()) {
      if (!stream->Write(*event)) context->TryCancel();
      events->OnWritten(*event);
    }
  });
  absl::Status status;
  while (status.ok() && stream->Read(&command)) {
    absl::StatusOr<SequenceCommand> parsed = ParseCommand(command);
    status = parsed.ok() ? engine_->Submit(client_id, *std::move(parsed)) : parsed.status();
  }
  engine_->RemoveClient(client_id);
  events->Close();
  writer.join();
  M1_LOG(kInfo) << "router left router_id=" << router_id;
  return ToGrpcStatus(status);
}

}  // namespace m1
