#include "expert_worker/exchange_stream.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/rpc/grpc_status.h"
#include "common/tensor/tensor.h"

namespace m1 {

// What a dispatch and its answer need while the engine has it.
struct ExchangeStream::Job {
  FrameHeader answer_header;
  Tensor rows;  // act [num_rows, hidden]
  std::vector<RowExpert> pairs;
  std::unique_ptr<OutgoingFrame> answer;
  ExpertJob work;  // views of the above
};

ExchangeStream::ExchangeStream(ExchangeService* service, int64_t client)
    : service_(service),
      client_(client),
      call_(&context_),
      accept_tag_{this, Tag::Step::kAccepted},
      read_tag_{this, Tag::Step::kRead},
      write_tag_{this, Tag::Step::kWritten},
      finish_tag_{this, Tag::Step::kFinished} {}

void ExchangeStream::OnEvent(Tag::Step step, bool ok) {
  switch (step) {
    case Tag::Step::kAccepted:
      if (!ok) return service_->Remove(this);
      return OnAccepted();
    case Tag::Step::kRead:
      return OnRead(ok);
    case Tag::Step::kWritten:
      return OnWritten(ok);
    case Tag::Step::kFinished: {
      bool done = false;
      {
        MutexLock lock(&mutex_);
        finished_ = true;
        done = !reading_;
      }
      if (done) service_->Remove(this);
      return;
    }
  }
}

void ExchangeStream::OnAccepted() {
  service_->AcceptStream();
  M1_VLOG(1) << "attention worker connected peer=" << context_.peer();
  OpenLink();
  MutexLock lock(&mutex_);
  accepted_ = true;
  Advance();
}

void ExchangeStream::OnRead(bool ok) {
  bool take = false;
  {
    MutexLock lock(&mutex_);
    // After Finish was posted nothing may be written any more: a frame that came in its way is not
    // taken.
    take = ok && !finishing_;
    if (take) ++num_unanswered_;
  }
  if (take) Handle();
  incoming_.Clear();
  bool done = false;
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    input_ended_ = input_ended_ || !ok;
    if (!ok) DropLink();
    done = finished_;
    if (!done) Advance();
  }
  if (done) service_->Remove(this);
}

void ExchangeStream::OnWritten(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  broken_ = broken_ || !ok;
  --num_unanswered_;
  outgoing_.pop_front();
  Advance();
}

void ExchangeStream::Drain() {
  MutexLock lock(&mutex_);
  draining_ = true;
  if (accepted_) Advance();
}

void ExchangeStream::Handle() {
  auto job = std::make_unique<Job>();
  FrameHeader header;
  absl::StatusOr<IncomingFrame> frame = OpenFrameMessage(incoming_);
  absl::Status status = frame.ok() ? ReadFrameHeader(&frame->bytes, &header) : frame.status();
  if (status.ok() && !header.rows_in_frame()) return HandleDevice(header, &frame->bytes);
  if (!status.ok() && FailedLink(status)) return;
  if (status.ok()) status = Parse(header, &frame->bytes, job.get());
  if (!status.ok()) {
    M1_VLOG(1) << "refused a frame peer=" << context_.peer() << " error=\"" << status.message()
               << "\"";
    return AnswerError(header.id, status);
  }
  EngineJob engine_job;
  engine_job.client = client_;
  engine_job.work = job->work;
  engine_job.done = [self = shared_from_this(),
                     owned = std::move(job)](const absl::Status& result) mutable {
    if (!result.ok()) return self->AnswerError(owned->answer_header.id, result);
    WriteFrameHeader(owned->answer_header, owned->answer->frame());
    self->Answer(owned->answer->Finish());
  };
  if (!service_->engine_->TrySubmit(std::move(engine_job))) {
    AnswerError(header.id, absl::ResourceExhaustedError("the expert worker's queue is full"));
  }
}

absl::Status ExchangeStream::Parse(const FrameHeader& header, ByteChunks* body, Job* job) const {
  M1_RETURN_IF_ERROR(service_->options_.limits.Check(header));
  job->answer_header = CombineHeader(header);
  job->rows = Tensor(header.dtype, {header.num_rows, header.hidden});
  job->pairs.resize(static_cast<size_t>(header.num_pairs));
  M1_RETURN_IF_ERROR(ReadDispatchBody(body, job->rows.view(), job->pairs));
  job->answer = std::make_unique<OutgoingFrame>(job->answer_header.frame_bytes());
  const TensorView out(job->answer->frame() + kFrameHeaderBytes, header.dtype,
                       {header.num_pairs, header.hidden});
  job->work = {header.layer, job->rows.view(), job->pairs, out};
  return service_->executor_->ValidateJob(job->work);
}

void ExchangeStream::Answer(const grpc::ByteBuffer& message) {
  MutexLock lock(&mutex_);
  outgoing_.push_back(message);
  Advance();
}

void ExchangeStream::AnswerError(uint64_t id, const absl::Status& status) {
  Answer(MakeFrameMessage(EncodeErrorFrame(id, status)));
}

void ExchangeStream::Advance() {
  if (broken_ && !writing_) {
    // Nobody reads any more.
    num_unanswered_ -= static_cast<int32_t>(outgoing_.size());
    outgoing_.clear();
  }
  if (!reading_ && !input_ended_ && !draining_ && failure_.ok() &&
      num_unanswered_ < service_->options_.max_unanswered) {
    reading_ = true;
    call_.Read(&incoming_, &read_tag_);
  }
  if (!writing_ && !outgoing_.empty()) {
    writing_ = true;
    call_.Write(outgoing_.front(), &write_tag_);
  }
  const bool ending = input_ended_ || draining_ || !failure_.ok();
  if (ending && num_unanswered_ == 0 && !finishing_) {
    finishing_ = true;
    DropLink();
    grpc::Status status = ToGrpcStatus(failure_);
    if (draining_) {
      status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the expert worker is shutting down");
    }
    call_.Finish(status, &finish_tag_);
  }
}

}  // namespace m1
