// One Exchange stream of one attention worker, on the server's side. Used by exchange_service.cc
// only. Owned by the service until its last event; jobs in the engine hold it too, since they
// answer through it.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "common/base/mutex.h"
#include "common/exchange/frame.h"
#include "common/rpc/exchange_message.h"
#include "expert_worker/device_jobs.h"
#include "expert_worker/exchange_service.h"

namespace m1 {

class ExchangeStream : public std::enable_shared_from_this<ExchangeStream> {
 public:
  // An event of the completion queue.
  struct Tag {
    enum class Step { kAccepted, kRead, kWritten, kFinished };
    ExchangeStream* stream = nullptr;
    Step step = Step::kAccepted;
  };

  // `client` is this stream's own number.
  ExchangeStream(ExchangeService* service, int64_t client);

  grpc::ServerContext* context() { return &context_; }
  grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>* call() { return &call_; }
  void* accept_tag() { return &accept_tag_; }

  // On the queue's thread.
  void OnEvent(Tag::Step step, bool ok);
  // From any thread.
  void Drain() ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes the stream's device link further; when to do so again. On the service's thread for links.
  absl::Duration PollLink() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Job;

  void OnAccepted() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnRead(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWritten(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // Answers the message in incoming_, at once or by the engine. It is counted in num_unanswered_.
  void Handle();
  // InvalidArgument for a frame that is not a dispatch this worker can run.
  absl::Status Parse(const FrameHeader& header, ByteChunks* body, Job* job) const;
  // `message` answers one dispatch. From any thread.
  void Answer(const grpc::ByteBuffer& message) ABSL_LOCKS_EXCLUDED(mutex_);
  void AnswerError(uint64_t id, const absl::Status& status);
  // exchange_stream_device.cc: a device link, if the caller has asked for one.
  void OpenLink() ABSL_LOCKS_EXCLUDED(mutex_);
  // A dispatch whose rows come through the link.
  void HandleDevice(const FrameHeader& header, ByteChunks* body) ABSL_LOCKS_EXCLUDED(mutex_);
  void Submit(std::unique_ptr<DeviceJob> job) ABSL_LOCKS_EXCLUDED(mutex_);
  void Finish(const DeviceJob& job, const absl::Status& result) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the link; nobody is told of what it has not brought.
  void DropLink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, and the stream ends with the status.
  void FailLink(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For a frame that cannot be read: if there is a link, rows may come for it that nobody expects.
  bool FailedLink(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts what is possible now: a read, a write, or the end.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ExchangeService* const service_;
  const int64_t client_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer> call_;
  grpc::ByteBuffer incoming_;  // the queue's thread only
  Tag accept_tag_, read_tag_, write_tag_, finish_tag_;

  Mutex mutex_;
  std::deque<grpc::ByteBuffer> outgoing_ ABSL_GUARDED_BY(mutex_);  // the front is being written
  int32_t num_unanswered_ ABSL_GUARDED_BY(mutex_) = 0;  // frames taken whose answer is not written
  std::unique_ptr<DeviceJobs> device_ ABSL_GUARDED_BY(mutex_);  // null: no device link
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);                // of it, when it was in use
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool input_ended_ ABSL_GUARDED_BY(mutex_) = false;  // half-closed or broken
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;       // a write failed
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace m1
