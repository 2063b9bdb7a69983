// One attempt of an ExchangePeer: its channel, the Describe call, then the Exchange stream, with or
// without a device link, or the link through shared memory. Used by exchange_peer.cc only. Events
// under way hold a reference, so that a call outlives the peer that gave it up.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <deque>
#include <memory>
#include <string>

#include "common/exchange/device_dispatches.h"
#include "common/rpc/exchange_peer.h"
#include "common/shm/shm_link.h"
#include "m1/v1/exchange.grpc.pb.h"

namespace m1 {

class ExchangePeer::Call : public std::enable_shared_from_this<ExchangePeer::Call> {
 public:
  Call(ExchangePeer* owner, absl::Time deadline);

  void Start();
  void Send(const FrameHeader& header, const DispatchSlice& slice);
  // The rows of the slice leave the device's memory, and the header says so; or false.
  absl::StatusOr<bool> TakeFromDevice(const DispatchSlice& slice, FrameHeader* header);
  absl::Status TakeRows(const FrameHeader& answer, TensorView out,
                        std::span<const int32_t> out_indices);
  void Flush();
  int32_t MaxRows(const DispatchBatch& batch) const;
  // Notices what has no event: what lies in shared memory, a worker that hung up.
  void Poll(absl::Time now);
  void ReadAnswers();
  bool over_shm() const { return link_ != nullptr && !negotiating_; }
  // Rows go from device to device.
  bool over_device() const { return device_ != nullptr && is_device_ready_; }
  // An answer is here that ReadAnswers has not taken.
  bool holds_answer() const { return device_ != nullptr && device_->NextAnswer().has_value(); }
  // Waits for the worker's answer to the offer of memory.
  bool negotiating() const { return negotiating_; }
  // When Poll has something to notice.
  absl::Time next_look() const;
  // The owner is told nothing more.
  void Abandon();

 private:
  enum class Step { kDescribed, kOpened, kRead, kWritten, kFinished };
  class Event;

  void* NewEvent(Step step);
  void OnEvent(Step step, bool ok);
  void OnDescribed();
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OpenStream();
  // Before the stream is opened. Errors: why there is no device link.
  absl::Status StartDeviceLink();
  void PollDevice();
  // True when the frame was one whose rows come through the device link.
  bool TakeDeviceFrame(ByteChunks frame);
  void ReadDeviceAnswers();
  // Errors: why shared memory is not to be had here.
  absl::Status StartNegotiation();
  void Negotiate(absl::Time now);
  // Empty, or why this peer cannot be used.
  std::string CheckDescription() const;
  void WriteNext();

  ExchangePeer* owner_;  // null once abandoned
  grpc::CompletionQueue* const queue_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::ExpertExchange::Stub> describe_stub_;
  grpc::GenericStub exchange_stub_;
  grpc::ClientContext describe_context_;
  grpc::ClientContext exchange_context_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DescribeExpertsResponse>> describe_call_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  v1::DescribeExpertsResponse description_;
  grpc::Status status_;
  grpc::ByteBuffer incoming_;
  std::deque<grpc::ByteBuffer> outgoing_;  // the front is being written
  const absl::Time deadline_;              // of what comes before the first dispatch
  std::unique_ptr<ShmLink> link_;          // null: the stream
  bool negotiating_ = false;
  absl::Time next_look_ = absl::InfinitePast();  // while negotiating
  std::unique_ptr<DeviceDispatches> device_;     // null: no device link
  bool is_device_ready_ = false;
};

}  // namespace m1
