// What a call of an ExchangePeer does with its device link.
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/rpc/exchange_message.h"
#include "common/rpc/exchange_peer_call.h"

namespace m1 {

absl::Status ExchangePeer::Call::StartDeviceLink() {
  DeviceTransport* transport = owner_->options_->device_transport;
  if (transport == nullptr) return absl::UnavailableError("this process has none to offer");
  if (!description_.has_device_link()) return absl::UnavailableError("the worker offers none");
  const v1::DeviceLinkOffer& offer = description_.device_link();
  if (offer.transport() != transport->name()) {
    return absl::UnavailableError(absl::StrCat("the worker offers \"", offer.transport(),
                                               "\", this process has ", transport->name()));
  }
  M1_ASSIGN_OR_RETURN(const DeviceLinkKeys keys, transport->NewKeys());
  M1_ASSIGN_OR_RETURN(std::shared_ptr<DeviceLink> link,
                      transport->Open(keys, {offer.slot_count(), offer.slot_bytes()},
                                      DeviceLinkEnd::kAttention, owner_->options_->device_timeout));
  device_ = std::make_unique<DeviceDispatches>(std::move(link));
  v1::DeviceLinkKeys message;
  message.set_dispatch(keys.dispatch);
  message.set_combine(keys.combine);
  exchange_context_.AddMetadata(kDeviceLinkMetadata, message.SerializeAsString());
  return absl::OkStatus();
}

void ExchangePeer::Call::PollDevice() {
  // The owner may give this call up.
  const std::shared_ptr<Call> self = shared_from_this();
  const absl::Status status = device_->Poll();
  if (!status.ok() && is_device_ready_) {
    // What it carried will not come.
    return owner_->Lose(std::string(status.message()));
  }
  if (!status.ok()) {
    device_.reset();
    return owner_->FellBack("device link", status);
  }
  if (is_device_ready_ || !device_->ready() || !owner_->connected_) return;
  is_device_ready_ = true;
  owner_->DeviceReady();
}

absl::StatusOr<bool> ExchangePeer::Call::TakeFromDevice(const DispatchSlice& slice,
                                                        FrameHeader* header) {
  if (!over_device()) return false;
  return device_->Send(slice.rows, slice.row_indices, header);
}

absl::Status ExchangePeer::Call::TakeRows(const FrameHeader& answer, TensorView out,
                                          std::span<const int32_t> out_indices) {
  if (device_ == nullptr) return absl::InvalidArgumentError("answer in a slot without a link");
  return device_->Take(answer, out, out_indices);
}

bool ExchangePeer::Call::TakeDeviceFrame(ByteChunks frame) {
  FrameHeader header;
  // The owner reads it again, and reports what is wrong with it.
  if (!ReadFrameHeader(&frame, &header).ok()) return false;
  if (header.kind == FrameKind::kError && device_ != nullptr) device_->OnError(header.id);
  if (header.rows_in_frame()) return false;
  const absl::Status status = device_ == nullptr
                                  ? absl::InvalidArgumentError("answer in a slot without a link")
                                  : device_->OnAnswer(header);
  if (status.ok()) {
    owner_->Heard();
  } else {
    owner_->Lose(std::string(status.message()));
  }
  return true;
}

void ExchangePeer::Call::ReadDeviceAnswers() {
  while (device_ != nullptr) {
    const std::optional<FrameHeader> answer = device_->NextAnswer();
    if (!answer.has_value()) return;
    std::array<std::byte, kFrameHeaderBytes> frame;
    WriteFrameHeader(*answer, frame.data());
    ByteChunks bytes{ByteChunks::Chunk(frame)};
    owner_->Received(&bytes);
    if (device_ != nullptr) device_->Release(*answer);
  }
}

}  // namespace m1
