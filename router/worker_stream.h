// The Run stream to one attention worker: opened, read, and opened again for as long as it lives.
//
// One thread opens and reads; a second one, while the stream is open, writes what Send was given,
// so that a worker that does not read holds up nobody.
#pragma once

#include <grpcpp/client_context.h>

#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "common/security/security.h"
#include "m1/v1/attention.grpc.pb.h"
#include "router/worker_link.h"

namespace m1 {

struct WorkerStreamOptions {
  int worker_index = 0;
  std::string address;
  std::string router_id;
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  // Outlives the stream; null, or without an identity: plaintext.
  const Security* security = nullptr;
};

// Thread-safe.
class WorkerStream final : public WorkerLink {
 public:
  // `listener` must outlive the stream. Nothing happens before Start.
  WorkerStream(WorkerStreamOptions options, WorkerListener* listener);
  ~WorkerStream() override;

  void Start();
  // Ends the stream; the listener hears of it, and of nothing after that.
  void Stop();
  void Send(WorkerCommand command) override;

  // Asks the worker itself. Errors: as the call ends.
  absl::StatusOr<v1::DescribeAttentionResponse> Describe(absl::Duration timeout);

  const std::string& address() const { return options_.address; }

 private:
  using Stream = grpc::ClientReaderWriter<v1::RunCommand, v1::RunEvent>;

  // On a connection of its own, made again when our certificate has changed.
  std::shared_ptr<v1::AttentionWorker::Stub> Stub() ABSL_LOCKS_EXCLUDED(mutex_);
  void KeepOpen();
  // Opens the stream and reads it to its end; tells whether it was accepted.
  absl::Status RunOnce(bool* was_open);
  absl::Status Greet(Stream* stream);
  // After a read has failed: the status of the stream, which ends in any case. A read also fails
  // when an event cannot be parsed; then the stream is cancelled, because no status would come.
  absl::Status EndStream(Stream* stream, grpc::ClientContext* context, std::thread writer);
  void ReadEvents(Stream* stream);
  void WriteCommands(Stream* stream);
  void SleepUnlessStopped(absl::Duration duration);

  const WorkerStreamOptions options_;
  WorkerListener* const listener_;

  Mutex mutex_;
  std::shared_ptr<const TlsIdentity> identity_ ABSL_GUARDED_BY(mutex_);  // that stub_ shows
  // Calls that run keep the one they began with.
  std::shared_ptr<v1::AttentionWorker::Stub> stub_ ABSL_GUARDED_BY(mutex_);
  CondVar changed_;
  bool is_stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool takes_commands_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the open stream
  std::deque<WorkerCommand> commands_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace m1
