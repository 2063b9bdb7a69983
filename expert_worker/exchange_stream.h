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
  void Drain();

 private:
  struct Job;

  void OnAccepted() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnRead(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWritten(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // Answers the message in incoming_, at once or by the engine. It is counted in num_unanswered_.
  void Handle();
  // InvalidArgument for a frame that is not a dispatch this worker can run; header.id as far as
  // known.
  absl::Status Parse(Job* job, FrameHeader* header) const;
  // `message` answers one dispatch. From any thread.
  void Answer(const grpc::ByteBuffer& message) ABSL_LOCKS_EXCLUDED(mutex_);
  void AnswerError(uint64_t id, const absl::Status& status);
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
