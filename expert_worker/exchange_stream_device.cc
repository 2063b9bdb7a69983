// What a stream does with its device link.
#include <string>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "expert_worker/exchange_stream.h"

namespace m1 {
namespace {

absl::StatusOr<std::shared_ptr<DeviceLink>> OpenLinkFor(const std::string& metadata,
                                                        const ExchangeServiceOptions& options) {
  v1::DeviceLinkKeys keys;
  if (!keys.ParseFromString(metadata)) {
    return absl::InvalidArgumentError("the keys of a device link are no message of them");
  }
  return options.device_transport->Open({keys.dispatch(), keys.combine()}, options.device_slots,
                                        DeviceLinkEnd::kExpert, options.device_timeout);
}

}  // namespace

void ExchangeStream::OpenLink() {
  const ExchangeServiceOptions& options = service_->options_;
  const auto& metadata = context_.client_metadata();
  const auto keys = metadata.find(kDeviceLinkMetadata);
  if (options.device_transport == nullptr || keys == metadata.end()) return;
  absl::StatusOr<std::shared_ptr<DeviceLink>> link =
      OpenLinkFor(std::string(keys->second.begin(), keys->second.end()), options);
  if (!link.ok()) {
    M1_LOG(kWarning) << "no device link with attention worker peer=" << context_.peer()
                     << " error=\"" << link.status().message() << "\"";
    return;
  }
  {
    MutexLock lock(&mutex_);
    device_ = std::make_unique<DeviceJobs>(*std::move(link));
  }
  service_->WakeLinks();
}

void ExchangeStream::HandleDevice(const FrameHeader& header, ByteChunks* body) {
  std::vector<RowExpert> pairs;
  absl::Status status = service_->options_.limits.Check(header, /*has_device_link=*/true);
  if (status.ok()) {
    pairs.resize(static_cast<size_t>(header.num_pairs));
    status = ReadDispatchPairs(body, header.num_rows, pairs);
  }
  {
    MutexLock lock(&mutex_);
    if (status.ok() && device_ == nullptr) {
      status = absl::InvalidArgumentError("rows in a slot without a device link");
    }
    if (status.ok()) status = device_->Expect(header, std::move(pairs));
    if (!status.ok()) {
      // An error frame would not do: what comes next would be taken for these rows.
      --num_unanswered_;
      return FailLink(status);
    }
  }
  service_->WakeLinks();
}

bool ExchangeStream::FailedLink(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (device_ == nullptr) return false;
  --num_unanswered_;
  FailLink(status);
  return true;
}

absl::Duration ExchangeStream::PollLink() {
  std::vector<std::unique_ptr<DeviceJob>> jobs;
  absl::Duration interval;
  {
    MutexLock lock(&mutex_);
    if (device_ == nullptr) return absl::InfiniteDuration();
    const bool was_ready = device_->ready();
    const absl::Status status = device_->Poll();
    if (!status.ok()) {
      M1_LOG(kWarning) << "device link with attention worker lost peer=" << context_.peer()
                       << " error=\"" << status.message() << "\"";
      if (was_ready) {
        FailLink(status);
      } else {
        DropLink();
      }
      return absl::InfiniteDuration();
    }
    jobs = device_->TakeReady();
    interval = device_->poll_interval();
  }
  for (std::unique_ptr<DeviceJob>& job : jobs) Submit(std::move(job));
  return interval;
}

void ExchangeStream::Submit(std::unique_ptr<DeviceJob> job) {
  const absl::Status valid = service_->executor_->ValidateJob(job->work);
  if (!valid.ok()) return Finish(*job, valid);
  // Shared: the queue may be full, and then the job is still to be answered.
  const std::shared_ptr<DeviceJob> shared = std::move(job);
  EngineJob engine_job;
  engine_job.client = client_;
  engine_job.work = shared->work;
  engine_job.done = [self = shared_from_this(), shared](const absl::Status& result) {
    self->Finish(*shared, result);
  };
  if (!service_->engine_->TrySubmit(std::move(engine_job))) {
    Finish(*shared, absl::ResourceExhaustedError("the expert worker's queue is full"));
  }
}

void ExchangeStream::Finish(const DeviceJob& job, const absl::Status& result) {
  const FrameHeader& answer = job.answer_header;
  {
    MutexLock lock(&mutex_);
    if (device_ == nullptr) {
      --num_unanswered_;
    } else if (!result.ok()) {
      device_->Release(job);
      outgoing_.push_back(MakeFrameMessage(EncodeErrorFrame(answer.id, result)));
    } else {
      OutgoingFrame message(answer.frame_bytes());
      WriteFrameHeader(answer, message.frame());
      outgoing_.push_back(message.Finish());
      // In the order of the frames that say so.
      device_->Answer(job);
    }
    Advance();
  }
  service_->WakeLinks();
}

void ExchangeStream::DropLink() {
  if (device_ == nullptr) return;
  num_unanswered_ -= device_->num_expected();
  device_.reset();
}

void ExchangeStream::FailLink(const absl::Status& status) {
  if (failure_.ok()) failure_ = status;
  DropLink();
  Advance();
}

}  // namespace m1
