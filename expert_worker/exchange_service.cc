#include "expert_worker/exchange_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/thread_name.h"
#include "common/exchange/frame.h"
#include "common/rpc/identity_proto.h"
#include "expert_worker/exchange_stream.h"

namespace m1 {
namespace {

// absl's infinite time has no place in a wait.
constexpr absl::Duration kLongestLinkWait = absl::Seconds(1);

}  // namespace

int ExchangeServiceOptions::max_message_bytes() const {
  constexpr int64_t kPrefixBytes = 16;  // of the protobuf message around the frame
  const int64_t rows =
      int64_t{limits.max_rows} * limits.shape.hidden_size * DTypeBytes(DType::kF32);
  const int64_t pairs = int64_t{limits.max_pairs} * static_cast<int64_t>(sizeof(RowExpert));
  return static_cast<int>(
      std::min<int64_t>(kFrameHeaderBytes + rows + pairs + kPrefixBytes, INT32_MAX));
}

// Describe, on gRPC's own threads; Exchange raw and on our queue.
class ExchangeService::Describer final
    : public v1::ExpertExchange::WithRawMethod_Exchange<v1::ExpertExchange::Service> {
 public:
  Describer(const ExchangeServiceOptions& options, const std::vector<int32_t>& experts)
      : identity_(options.identity) {
    *response_.mutable_identity() = ToProto(options.identity);
    response_.mutable_experts()->Add(experts.begin(), experts.end());
    response_.set_layer_count(options.limits.shape.num_layers);
    response_.set_hidden_size(options.limits.shape.hidden_size);
    response_.set_expert_count(options.limits.shape.num_experts);
    response_.set_max_rows(options.limits.max_rows);
    if (options.device_transport != nullptr) {
      v1::DeviceLinkOffer* offer = response_.mutable_device_link();
      offer->set_transport(options.device_transport->name());
      offer->set_slot_count(options.device_slots.num_slots);
      offer->set_slot_bytes(options.device_slots.slot_bytes);
    }
    if (!options.shared_memory.has_value()) return;
    v1::SharedMemoryOffer* offer = response_.mutable_shared_memory();
    offer->set_socket(options.shared_memory->socket);
    offer->set_token(options.shared_memory->token);
    offer->set_boot_id(options.shared_memory->boot_id);
  }

  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeExpertsRequest* request,
                        v1::DescribeExpertsResponse* response) override {
    *response = response_;
    if (request->has_identity()) {
      LogDifference(context->peer(), IdentityDifference(identity_, FromProto(request->identity())));
    }
    return grpc::Status::OK;
  }

 private:
  // The caller compares too and stays away; it asks again and again, so a difference is logged
  // once.
  void LogDifference(const std::string& peer, const std::string& difference) {
    MutexLock lock(&mutex_);
    if (difference.empty() || difference == last_difference_) return;
    last_difference_ = difference;
    M1_LOG(kWarning) << "attention worker of another identity peer=" << peer << " " << difference;
  }

  const WorkerIdentity identity_;
  v1::DescribeExpertsResponse response_;  // constant
  Mutex mutex_;
  std::string last_difference_ ABSL_GUARDED_BY(mutex_);
};

ExchangeService::ExchangeService(const ExchangeServiceOptions& options,
                                 const ExpertExecutor* executor, Engine* engine)
    : options_(options),
      executor_(executor),
      engine_(engine),
      describer_(std::make_unique<Describer>(options, executor->hosted_experts())) {}

ExchangeService::~ExchangeService() { Stop(); }

grpc::Service* ExchangeService::service() { return describer_.get(); }

void ExchangeService::AddQueue(grpc::ServerBuilder& builder) {
  queue_ = builder.AddCompletionQueue();
}

void ExchangeService::Start() {
  AcceptStream();
  thread_ = std::thread([this] { Loop(); });
  if (options_.device_transport != nullptr) link_thread_ = std::thread([this] { LinkLoop(); });
}

void ExchangeService::Loop() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
    const ExchangeStream::Tag event = *static_cast<ExchangeStream::Tag*>(tag);
    event.stream->OnEvent(event.step, ok);
  }
}

void ExchangeService::AcceptStream() {
  std::shared_ptr<ExchangeStream> stream;
  {
    MutexLock lock(&mutex_);
    stream = std::make_shared<ExchangeStream>(this, ++num_accepted_);
    streams_.insert(stream);
    if (draining_) stream->Drain();
  }
  describer_->RequestExchange(stream->context(), stream->call(), queue_.get(), queue_.get(),
                              stream->accept_tag());
}

void ExchangeService::Remove(ExchangeStream* stream) {
  MutexLock lock(&mutex_);
  streams_.erase(stream->shared_from_this());
  if (streams_.empty()) no_streams_.SignalAll();
}

size_t ExchangeService::num_streams() const {
  MutexLock lock(&mutex_);
  // One waits for the next attention worker, until the end.
  return draining_ || streams_.empty() ? streams_.size() : streams_.size() - 1;
}

void ExchangeService::Drain() {
  MutexLock lock(&mutex_);
  draining_ = true;
  for (const std::shared_ptr<ExchangeStream>& stream : streams_) stream->Drain();
}

void ExchangeService::Stop() {
  if (!thread_.joinable()) return;
  {
    // Nothing may be started on the queue once it is shut down; after the server's shutdown every
    // stream ends.
    MutexLock lock(&mutex_);
    while (!streams_.empty()) no_streams_.Wait(&mutex_);
  }
  queue_->Shutdown();
  thread_.join();
  if (!link_thread_.joinable()) return;
  {
    MutexLock lock(&link_mutex_);
    stop_links_ = true;
    link_wake_.SignalAll();
  }
  link_thread_.join();
}

void ExchangeService::LinkLoop() {
  NameThread("device-links");
  while (true) {
    int64_t seen = 0;
    {
      MutexLock lock(&link_mutex_);
      if (stop_links_) return;
      seen = num_link_wakes_;
    }
    std::vector<std::shared_ptr<ExchangeStream>> streams;
    {
      MutexLock lock(&mutex_);
      streams.assign(streams_.begin(), streams_.end());
    }
    absl::Duration interval = absl::InfiniteDuration();
    for (const std::shared_ptr<ExchangeStream>& stream : streams) {
      interval = std::min(interval, stream->PollLink());
    }
    streams.clear();
    const absl::Time next = absl::Now() + interval;
    MutexLock lock(&link_mutex_);
    while (seen == num_link_wakes_ && !stop_links_ && absl::Now() < next) {
      link_wake_.WaitUntil(&link_mutex_, std::min(next, absl::Now() + kLongestLinkWait));
    }
  }
}

void ExchangeService::WakeLinks() {
  MutexLock lock(&link_mutex_);
  ++num_link_wakes_;
  link_wake_.SignalAll();
}

}  // namespace m1
