#include "common/rpc/exchange_peer_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/status_macros.h"
#include "common/rpc/exchange_message.h"
#include "common/rpc/identity_proto.h"
#include "common/rpc/worker_credentials.h"

namespace m1 {
namespace {

constexpr char kExchangeMethod[] = "/m1.v1.ExpertExchange/Exchange";
// Between looks for the worker's answer to our offer of memory.
constexpr absl::Duration kLookInterval = absl::Milliseconds(1);

// Each attempt shows the certificate of now.
ChannelOptions ChannelOptionsOf(const Security* security) {
  ChannelOptions options;
  if (security != nullptr) {
    options.credentials = MakeWorkerCredentials(security->identity().get(), Role::kExpertWorker);
  }
  return options;
}

}  // namespace

class ExchangePeer::Call::Event final : public CompletionTag {
 public:
  Event(std::shared_ptr<Call> call, Step step) : call_(std::move(call)), step_(step) {}
  void Complete(bool ok) override { call_->OnEvent(step_, ok); }

 private:
  const std::shared_ptr<Call> call_;
  const Step step_;
};

ExchangePeer::Call::Call(ExchangePeer* owner, absl::Time deadline)
    : owner_(owner),
      queue_(owner->context_.queue),
      channel_(MakeChannel(std::string(WithoutTransport(owner->address_)),
                           ChannelOptionsOf(owner->options_->security))),
      describe_stub_(v1::ExpertExchange::NewStub(channel_)),
      exchange_stub_(channel_),
      deadline_(deadline) {
  describe_context_.set_deadline(absl::ToChronoTime(deadline));
}

void* ExchangePeer::Call::NewEvent(Step step) {
  return static_cast<CompletionTag*>(new Event(shared_from_this(), step));
}

void ExchangePeer::Call::Start() {
  v1::DescribeExpertsRequest request;
  *request.mutable_identity() = ToProto(owner_->options_->identity);
  describe_call_ = describe_stub_->AsyncDescribe(&describe_context_, request, queue_);
  describe_call_->Finish(&description_, &status_, NewEvent(Step::kDescribed));
}

void ExchangePeer::Call::Abandon() {
  owner_ = nullptr;
  link_.reset();
  device_.reset();
  describe_context_.TryCancel();
  exchange_context_.TryCancel();
}

void ExchangePeer::Call::Send(const FrameHeader& header, const DispatchSlice& slice) {
  if (link_ != nullptr) return link_->Send(header, slice);
  OutgoingFrame message(header.frame_bytes());
  WriteDispatch(header, slice, message.frame());
  outgoing_.push_back(message.Finish());
  if (outgoing_.size() == 1) WriteNext();
}

void ExchangePeer::Call::Flush() {
  if (link_ != nullptr) link_->Flush();
}

int32_t ExchangePeer::Call::MaxRows(const DispatchBatch& batch) const {
  if (link_ != nullptr) return link_->MaxRows(batch);
  return over_device() && batch.device != nullptr ? device_->MaxRows(batch) : INT32_MAX;
}

absl::Time ExchangePeer::Call::next_look() const {
  if (negotiating_) return next_look_;
  return device_ == nullptr ? absl::InfiniteFuture() : absl::Now() + device_->poll_interval();
}

void ExchangePeer::Call::ReadAnswers() {
  // The owner may give this call up for what it reads.
  const std::shared_ptr<Call> self = shared_from_this();
  while (link_ != nullptr) {
    const std::optional<SlotFrame> frame = link_->NextAnswer();
    if (!frame.has_value()) return;
    ByteChunks bytes{ByteChunks::Chunk(frame->bytes)};
    owner_->Received(&bytes);
    if (link_ != nullptr) link_->Release(frame->slot);
  }
  ReadDeviceAnswers();
}

void ExchangePeer::Call::Poll(absl::Time now) {
  if (device_ != nullptr) return PollDevice();
  if (link_ == nullptr) return;
  const std::shared_ptr<Call> self = shared_from_this();
  if (negotiating_) return Negotiate(now);
  const bool hung_up = link_->HungUp();
  // Also what it wrote before it hung up.
  ReadAnswers();
  if (hung_up && owner_ != nullptr) owner_->Lose("the worker hung up");
}

void ExchangePeer::Call::WriteNext() {
  stream_->Write(outgoing_.front(), NewEvent(Step::kWritten));
}

void ExchangePeer::Call::OnEvent(Step step, bool ok) {
  if (owner_ == nullptr) return;
  switch (step) {
    case Step::kDescribed:
      return OnDescribed();
    case Step::kOpened:
      if (!ok) return owner_->Lose("the exchange stream could not be opened");
      stream_->Read(&incoming_, NewEvent(Step::kRead));
      return owner_->Opened();
    case Step::kRead:
      return OnRead(ok);
    case Step::kWritten:
      return OnWritten(ok);
    case Step::kFinished:
      return owner_->Lose(status_.ok() ? "the worker ended the stream" : status_.error_message());
  }
}

void ExchangePeer::Call::OnDescribed() {
  if (!status_.ok()) return owner_->Lose(status_.error_message());
  const std::string problem = CheckDescription();
  if (!problem.empty()) return owner_->Refuse(problem);
  owner_->Described({description_.experts().begin(), description_.experts().end()},
                    description_.max_rows());
  if (HasShmPrefix(owner_->address_)) {
    const absl::Status started = StartNegotiation();
    if (started.ok()) return;
    owner_->FellBack("shared memory", started);
  }
  OpenStream();
}

absl::Status ExchangePeer::Call::StartNegotiation() {
  const SharedMemory* doorbell = owner_->context_.doorbell;
  if (doorbell == nullptr || doorbell->data() == nullptr) {
    return absl::UnavailableError("this process has none to share");
  }
  if (!description_.has_shared_memory()) {
    return absl::UnavailableError("the worker offers none");
  }
  const v1::SharedMemoryOffer& offer = description_.shared_memory();
  const SlotLayout& slots = owner_->options_->slots;
  M1_RETURN_IF_ERROR(
      CheckRowFits(slots, description_.hidden_size(), owner_->options_->num_experts));
  M1_ASSIGN_OR_RETURN(
      link_, ShmLink::Connect({offer.socket(), offer.token(), offer.boot_id()}, slots, *doorbell));
  negotiating_ = true;
  return absl::OkStatus();
}

void ExchangePeer::Call::Negotiate(absl::Time now) {
  next_look_ = now + kLookInterval;
  absl::StatusOr<bool> accepted = link_->Accepted();
  if (accepted.ok() && !*accepted && now >= deadline_) {
    accepted = absl::DeadlineExceededError("the worker did not answer in time");
  }
  if (accepted.ok() && !*accepted) return;
  negotiating_ = false;
  if (accepted.ok()) return owner_->Opened();
  link_.reset();
  owner_->FellBack("shared memory", accepted.status());
  OpenStream();
}

void ExchangePeer::Call::OpenStream() {
  if (HasNcclPrefix(owner_->address_)) {
    const absl::Status started = StartDeviceLink();
    if (!started.ok()) owner_->FellBack("device link", started);
  }
  stream_ = exchange_stub_.PrepareCall(&exchange_context_, kExchangeMethod, queue_);
  stream_->StartCall(NewEvent(Step::kOpened));
}

std::string ExchangePeer::Call::CheckDescription() const {
  const ExchangePeerOptions& options = *owner_->options_;
  const std::string difference =
      IdentityDifference(options.identity, FromProto(description_.identity()));
  if (!difference.empty()) return absl::StrCat("identity differs: ", difference);
  if (options.hidden_size != 0 && description_.hidden_size() != options.hidden_size) {
    return absl::StrCat("hidden size ", description_.hidden_size(), ", want ", options.hidden_size);
  }
  if (description_.max_rows() < 1) {
    return absl::StrCat("max_rows ", description_.max_rows(), ", want at least 1");
  }
  int32_t previous = -1;
  for (const int32_t expert : description_.experts()) {
    if (expert <= previous || expert >= options.num_experts) {
      return absl::StrCat("hosted experts must ascend within [0, ", options.num_experts, "), got ",
                          expert);
    }
    previous = expert;
  }
  return "";
}

void ExchangePeer::Call::OnRead(bool ok) {
  if (!ok) return stream_->Finish(&status_, NewEvent(Step::kFinished));
  absl::StatusOr<IncomingFrame> frame = OpenFrameMessage(incoming_);
  if (!frame.ok()) return owner_->Lose(std::string(frame.status().message()));
  if (!TakeDeviceFrame(frame->bytes)) owner_->Received(&frame->bytes);
  if (owner_ == nullptr) return;
  incoming_.Clear();
  stream_->Read(&incoming_, NewEvent(Step::kRead));
}

void ExchangePeer::Call::OnWritten(bool ok) {
  // After a failed write the read fails too, and reports why.
  outgoing_.pop_front();
  if (!ok) outgoing_.clear();
  if (!outgoing_.empty()) WriteNext();
}

}  // namespace m1
