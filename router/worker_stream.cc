#include "router/worker_stream.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/exchange/identity.h"
#include "common/rpc/channel.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/worker_credentials.h"
#include "router/worker_stream_messages.h"

namespace m1 {
namespace {

// A stream that has ended has its status at hand; one whose last event could not be read never gets
// one.
constexpr absl::Duration kStatusTimeout = absl::Milliseconds(500);

}  // namespace

WorkerStream::WorkerStream(WorkerStreamOptions options, WorkerListener* listener)
    : options_(std::move(options)), listener_(listener) {}

WorkerStream::~WorkerStream() { Stop(); }

void WorkerStream::Stop() {
  {
    MutexLock lock(&mutex_);
    is_stopped_ = true;
    if (context_ != nullptr) context_->TryCancel();
    changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<v1::AttentionWorker::Stub> WorkerStream::Stub() {
  std::shared_ptr<const TlsIdentity> identity;
  if (options_.security != nullptr) identity = options_.security->identity();
  MutexLock lock(&mutex_);
  if (stub_ == nullptr || identity != identity_) {
    ChannelOptions channel_options;
    channel_options.credentials = MakeWorkerCredentials(identity.get(), Role::kAttentionWorker);
    stub_ = v1::AttentionWorker::NewStub(MakeChannel(options_.address, channel_options));
    identity_ = std::move(identity);
  }
  return stub_;
}

void WorkerStream::Start() {
  thread_ = std::thread([this] { KeepOpen(); });
}

void WorkerStream::Send(WorkerCommand command) {
  MutexLock lock(&mutex_);
  if (!takes_commands_) return;
  commands_.push_back(std::move(command));
  changed_.SignalAll();
}

absl::StatusOr<v1::DescribeAttentionResponse> WorkerStream::Describe(absl::Duration timeout) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  v1::DescribeAttentionResponse response;
  M1_RETURN_IF_ERROR(FromGrpcStatus(Stub()->Describe(&context, {}, &response)));
  return response;
}

void WorkerStream::KeepOpen() {
  absl::BitGen random;
  absl::Duration backoff = options_.min_backoff;
  bool is_first_failure = true;
  while (true) {
    bool was_open = false;
    const absl::Status status = RunOnce(&was_open);
    {
      MutexLock lock(&mutex_);
      if (is_stopped_) return;
    }
    if (was_open || is_first_failure) {
      M1_LOG(kWarning) << "event=" << (was_open ? "worker_lost" : "worker_unreachable")
                       << " address=" << options_.address << " error=\"" << status.ToString()
                       << "\"";
    }
    is_first_failure = was_open;
    if (was_open) backoff = options_.min_backoff;
    SleepUnlessStopped(backoff * absl::Uniform(random, 0.8, 1.2));
    backoff = std::min(backoff * 2, options_.max_backoff);
  }
}

absl::Status WorkerStream::RunOnce(bool* was_open) {
  grpc::ClientContext context;
  {
    MutexLock lock(&mutex_);
    if (is_stopped_) return absl::CancelledError("stopped");
    context_ = &context;
    commands_.clear();
    takes_commands_ = true;
  }
  const std::shared_ptr<v1::AttentionWorker::Stub> stub = Stub();
  const std::unique_ptr<Stream> stream = stub->Run(&context);
  const absl::Status greeting = Greet(stream.get());
  std::thread writer;
  if (greeting.ok()) {
    *was_open = true;
    writer = std::thread([this, &stream] { WriteCommands(stream.get()); });
    ReadEvents(stream.get());
  } else if (greeting.code() != absl::StatusCode::kUnavailable) {
    context.TryCancel();
  }
  const absl::Status end = EndStream(stream.get(), &context, std::move(writer));
  absl::Status status =
      greeting.ok() || greeting.code() == absl::StatusCode::kUnavailable ? end : greeting;
  if (status.ok()) status = absl::UnavailableError("the worker ended the stream");
  listener_->OnLost(options_.worker_index, status);
  return status;
}

absl::Status WorkerStream::EndStream(Stream* stream, grpc::ClientContext* context,
                                     std::thread writer) {
  bool has_status = false;  // this and the next are guarded by mutex_
  bool gave_up = false;
  {
    MutexLock lock(&mutex_);
    takes_commands_ = false;
    changed_.SignalAll();
  }
  std::thread watchdog([this, context, &has_status, &gave_up] {
    const absl::Time until = absl::Now() + kStatusTimeout;
    MutexLock lock(&mutex_);
    while (!has_status && changed_.WaitUntil(&mutex_, until)) {
    }
    if (has_status) return;
    gave_up = true;
    context->TryCancel();
  });
  if (writer.joinable()) writer.join();  // a write that is under way fails
  const absl::Status end = FromGrpcStatus(stream->Finish());
  {
    MutexLock lock(&mutex_);
    has_status = true;
    context_ = nullptr;
    changed_.SignalAll();
  }
  watchdog.join();
  if (gave_up && absl::IsCancelled(end)) {
    return absl::InternalError("unreadable event: the worker sent no valid m1.v1.RunEvent");
  }
  return end;
}

// Errors: Unavailable when the stream broke, which its status explains; else the refusal.
absl::Status WorkerStream::Greet(Stream* stream) {
  v1::RunCommand command;
  command.mutable_hello()->set_protocol_revision(kProtocolRevision);
  command.mutable_hello()->set_router_id(options_.router_id);
  v1::RunEvent event;
  if (!stream->Write(command) || !stream->Read(&event)) {
    return absl::UnavailableError("the stream broke");
  }
  if (!event.has_welcome()) {
    return absl::FailedPreconditionError("the worker's first event is not Welcome");
  }
  const WorkerWelcome welcome = FromProto(event.welcome());
  if (welcome.identity.protocol_revision != kProtocolRevision) {
    return absl::FailedPreconditionError(absl::StrCat("the worker speaks protocol revision ",
                                                      welcome.identity.protocol_revision,
                                                      ", this router ", kProtocolRevision));
  }
  M1_RETURN_IF_ERROR(listener_->OnWelcome(options_.worker_index, welcome));
  M1_LOG(kInfo) << "event=worker_joined address=" << options_.address
                << " fingerprint=" << welcome.identity.fingerprint
                << " max_sequences=" << welcome.limits.max_sequences
                << " kv_blocks=" << welcome.limits.kv_blocks;
  return absl::OkStatus();
}

void WorkerStream::ReadEvents(Stream* stream) {
  v1::RunEvent event;
  while (stream->Read(&event)) {
    if (event.has_step()) listener_->OnStep(options_.worker_index, FromProto(event.step()));
  }
}

void WorkerStream::WriteCommands(Stream* stream) {
  while (true) {
    WorkerCommand command;
    {
      MutexLock lock(&mutex_);
      while (commands_.empty() && takes_commands_) changed_.Wait(&mutex_);
      if (!takes_commands_) return;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    if (!stream->Write(ToProto(command))) return;  // the reader sees the end, too
  }
}

void WorkerStream::SleepUnlessStopped(absl::Duration duration) {
  const absl::Time until = absl::Now() + duration;
  MutexLock lock(&mutex_);
  while (!is_stopped_ && changed_.WaitUntil(&mutex_, until)) {
  }
}

}  // namespace m1
