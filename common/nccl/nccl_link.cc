#include "common/nccl/nccl_link.h"

#include <array>
#include <numeric>
#include <utility>

#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/nccl/errors.h"

namespace m1::nccl {
namespace {

constexpr absl::Duration kSetUpInterval = absl::Milliseconds(1);
constexpr absl::Duration kTransferInterval = absl::Microseconds(20);
constexpr size_t kTestBytes = 64;

using TestMessage = std::array<unsigned char, kTestBytes>;

TestMessage MakeTestMessage() {
  TestMessage message{};
  for (size_t i = 0; i < kTestBytes; ++i) message[i] = static_cast<unsigned char>(37 * i + 11);
  return message;
}

}  // namespace

absl::StatusOr<std::shared_ptr<DeviceLink>> NcclLink::Open(const LinkContext& context,
                                                           const UniqueId& dispatch,
                                                           const UniqueId& combine,
                                                           const DeviceSlots& slots,
                                                           std::shared_ptr<LinkMemory> memory,
                                                           DeviceLinkEnd end, absl::Time deadline) {
  if (slots.slot_bytes < static_cast<int64_t>(kTestBytes)) {
    return absl::InvalidArgumentError("slots are smaller than the message that tests a link");
  }
  std::shared_ptr<NcclLink> link(new NcclLink(context, slots, std::move(memory), end, deadline));
  const bool attention = end == DeviceLinkEnd::kAttention;
  M1_RETURN_IF_ERROR(link->out_->Open(attention ? dispatch : combine));
  M1_RETURN_IF_ERROR(link->in_->Open(attention ? combine : dispatch));
  // The memory may have been another link's, whose rows the backend still reads or writes.
  M1_RETURN_IF_ERROR(link->out_->After(context.stream));
  M1_RETURN_IF_ERROR(link->in_->After(context.stream));
  return std::shared_ptr<DeviceLink>(std::move(link));
}

NcclLink::NcclLink(const LinkContext& context, const DeviceSlots& slots,
                   std::shared_ptr<LinkMemory> memory, DeviceLinkEnd end, absl::Time deadline)
    : context_(context),
      slots_(slots),
      memory_(std::move(memory)),
      end_(end),
      deadline_(deadline),
      out_(std::make_unique<Channel>(Channel::Direction::kSend,
                                     end == DeviceLinkEnd::kAttention ? 0 : 1, slots.num_slots)),
      in_(std::make_unique<Channel>(Channel::Direction::kReceive,
                                    end == DeviceLinkEnd::kAttention ? 0 : 1, slots.num_slots)) {}

void NcclLink::Close() {
  if (out_ == nullptr) return;
  if (status_.ok()) status_ = absl::UnavailableError("the link was closed");
  context_.reaper->End(std::move(out_), memory_);
  context_.reaper->End(std::move(in_), memory_);
}

absl::Status NcclLink::Poll() {
  if (status_.ok()) status_ = Advance();
  return status_;
}

absl::Duration NcclLink::poll_interval() const {
  if (!status_.ok()) return absl::InfiniteDuration();
  if (state_ != State::kReady) return kSetUpInterval;
  return out_->all_idle() && in_->all_idle() ? absl::InfiniteDuration() : kTransferInterval;
}

absl::Status NcclLink::Advance() {
  M1_RETURN_IF_ERROR(out_->Poll());
  M1_RETURN_IF_ERROR(in_->Poll());
  if (state_ == State::kReady) return absl::OkStatus();
  if (state_ == State::kConnecting && out_->connected() && in_->connected()) {
    M1_RETURN_IF_ERROR(StartTest());
  }
  if (state_ == State::kTesting) M1_RETURN_IF_ERROR(ContinueTest());
  if (state_ == State::kReady || absl::Now() < deadline_) return absl::OkStatus();
  return absl::UnavailableError(state_ == State::kTesting
                                    ? "NCCL: no test message came in time"
                                    : "NCCL: the other end did not connect in time");
}

absl::Status NcclLink::StartTest() {
  state_ = State::kTesting;
  if (end_ == DeviceLinkEnd::kAttention) {
    const TestMessage message = MakeTestMessage();
    M1_RETURN_IF_ERROR(CudaStatus(
        cuda::ToDevice(outgoing(0), message.data(), kTestBytes, out_->stream()), "test message"));
    out_->Transfer(0, outgoing(0), kTestBytes);
  }
  in_->Transfer(0, incoming(0), kTestBytes);
  M1_RETURN_IF_ERROR(out_->Poll());
  return in_->Poll();
}

absl::Status NcclLink::ContinueTest() {
  if (!out_->all_idle() || !in_->all_idle()) return absl::OkStatus();
  if (end_ == DeviceLinkEnd::kExpert) {
    state_ = State::kReady;
    out_->Transfer(0, incoming(0), kTestBytes);
    return out_->Poll();
  }
  TestMessage message{};
  M1_RETURN_IF_ERROR(CudaStatus(
      cuda::ToHost(message.data(), incoming(0), kTestBytes, in_->stream()), "test message"));
  if (message != MakeTestMessage()) {
    return absl::UnavailableError("NCCL: the test message came back changed");
  }
  state_ = State::kReady;
  return absl::OkStatus();
}

TensorView NcclLink::RowsAt(std::byte* data, ConstTensorView like, size_t rows) {
  return {data, like.dtype(), {static_cast<int64_t>(rows), like.dim(1)}};
}

std::span<const int32_t> NcclLink::Iota(size_t count) {
  if (iota_.size() < count) {
    iota_.resize(count);
    std::iota(iota_.begin(), iota_.end(), 0);
  }
  return std::span<const int32_t>(iota_).first(count);
}

absl::Status NcclLink::Gather(ConstTensorView rows, std::span<const int32_t> row_indices,
                              int32_t slot) {
  const size_t count = row_indices.size();
  M1_RETURN_IF_ERROR(context_.backend->CopyRows(rows, row_indices,
                                                RowsAt(outgoing(slot), rows, count), Iota(count)));
  return context_.backend->Submit();  // the slot is another's when the link ends
}

absl::Status NcclLink::Scatter(int32_t slot, TensorView out, std::span<const int32_t> out_indices) {
  const size_t count = out_indices.size();
  M1_RETURN_IF_ERROR(context_.backend->CopyRows(RowsAt(incoming(slot), out, count), Iota(count),
                                                out, out_indices));
  M1_RETURN_IF_ERROR(context_.backend->Submit());
  // What comes into the slot next must not come before.
  return in_ == nullptr ? absl::OkStatus() : in_->After(context_.stream);
}

void NcclLink::Send(int32_t slot, int64_t num_bytes) {
  M1_CHECK(num_bytes > 0 && num_bytes <= slots_.slot_bytes);
  if (!status_.ok()) return;
  status_ = context_.backend->Submit();
  status_.Update(out_->After(context_.stream));
  if (!status_.ok()) return;
  out_->Transfer(slot, outgoing(slot), static_cast<size_t>(num_bytes));
  status_ = out_->Poll();
}

void NcclLink::Receive(int32_t slot, int64_t num_bytes) {
  M1_CHECK(num_bytes > 0 && num_bytes <= slots_.slot_bytes);
  if (!status_.ok()) return;
  in_->Transfer(slot, incoming(slot), static_cast<size_t>(num_bytes));
  status_ = in_->Poll();
}

}  // namespace m1::nccl
