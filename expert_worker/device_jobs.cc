#include "expert_worker/device_jobs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace m1 {

DeviceJobs::DeviceJobs(std::shared_ptr<DeviceLink> link)
    : link_(std::move(link)), is_open_(static_cast<size_t>(link_->slots().num_slots), false) {}

DeviceJobs::~DeviceJobs() { link_->Close(); }

absl::Status DeviceJobs::Expect(const FrameHeader& dispatch, std::vector<RowExpert> pairs) {
  const int32_t slot = dispatch.device_slot;
  if (!link_->ready()) return absl::InvalidArgumentError("rows before the device link was ready");
  if (slot < 0 || slot >= link_->slots().num_slots || is_open_[static_cast<size_t>(slot)] ||
      !link_->is_received(slot)) {
    return absl::InvalidArgumentError(absl::StrCat("rows in slot ", slot, ", which is not free"));
  }
  const int64_t num_bytes = dispatch.num_rows * dispatch.row_bytes();
  const int64_t answer_bytes = dispatch.num_pairs * dispatch.row_bytes();
  if (std::min(num_bytes, answer_bytes) < 1 ||
      std::max(num_bytes, answer_bytes) > link_->slots().slot_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("rows of ", num_bytes, " bytes, answers of ",
                                                   answer_bytes, ", a slot takes 1 to ",
                                                   link_->slots().slot_bytes));
  }
  auto job = std::make_unique<DeviceJob>();
  job->answer_header = CombineHeader(dispatch);
  job->pairs = std::move(pairs);
  job->link = link_;
  job->work = {.layer = dispatch.layer,
               .rows = ConstTensorView(link_->incoming(slot), dispatch.dtype,
                                       {dispatch.num_rows, dispatch.hidden}),
               .pairs = job->pairs,
               .out = TensorView(link_->outgoing(slot), dispatch.dtype,
                                 {dispatch.num_pairs, dispatch.hidden}),
               .out_rows = {},
               .is_on_device = true};
  is_open_[static_cast<size_t>(slot)] = true;
  expected_[slot] = std::move(job);
  link_->Receive(slot, num_bytes);
  return absl::OkStatus();
}

std::vector<std::unique_ptr<DeviceJob>> DeviceJobs::TakeReady() {
  std::vector<std::unique_ptr<DeviceJob>> jobs;
  for (auto it = expected_.begin(); it != expected_.end();) {
    // The answer before it may still be read where this one's will be written.
    if (link_->is_received(it->first) && link_->is_sent(it->first)) {
      jobs.push_back(std::move(it->second));
      it = expected_.erase(it);
    } else {
      ++it;
    }
  }
  return jobs;
}

void DeviceJobs::Answer(const DeviceJob& job) {
  Release(job);
  link_->Send(job.answer_header.device_slot, job.work.out.num_bytes());
}

void DeviceJobs::Release(const DeviceJob& job) {
  is_open_[static_cast<size_t>(job.answer_header.device_slot)] = false;
}

}  // namespace m1
