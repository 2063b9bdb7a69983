#include "common/rpc/exchange_peer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/rpc/exchange_peer_call.h"

namespace m1 {

ExchangePeer::ExchangePeer(PeerId id, std::string address, const ExchangePeerContext& context)
    : id_(id),
      address_(std::move(address)),
      context_(context),
      options_(context.options),
      listener_(context.listener),
      jitter_(static_cast<uint32_t>(std::hash<std::string>()(address_)) ^
              static_cast<uint32_t>(absl::ToUnixNanos(absl::Now()))),
      backoff_(options_->min_backoff) {}

ExchangePeer::~ExchangePeer() {
  if (call_ != nullptr) call_->Abandon();
}

ExpertPeer ExchangePeer::Snapshot() const {
  const bool fell_back = connected_ && !over_shm() && !over_device();
  return {std::string(fell_back ? WithoutTransport(address_) : address_),
          connected_,
          experts_,
          connected_ ? "" : last_error_,
          mismatched_,
          sent_bytes_,
          received_bytes_};
}

absl::Time ExchangePeer::next_poll() const {
  if (call_ == nullptr) return retry_at_;
  if (call_->negotiating()) return call_->next_look();
  return std::min(call_->next_look(), answer_deadline());
}

absl::Time ExchangePeer::answer_deadline() const {
  // An answer that is here, on the device, waits for us.
  if (unanswered_.empty() || call_->holds_answer()) return absl::InfiniteFuture();
  return waiting_since_ + options_->exchange_timeout;
}

void ExchangePeer::Poll(absl::Time now) {
  // It may be lost by that.
  if (call_ != nullptr) call_->Poll(now);
  if (call_ == nullptr) {
    if (now >= retry_at_) Connect(now);
  } else if (!call_->negotiating() && now >= answer_deadline()) {
    Lose(absl::StrCat("no answer for ", absl::FormatDuration(options_->exchange_timeout)));
  }
}

void ExchangePeer::Connect(absl::Time now) {
  call_ = std::make_shared<Call>(this, now + options_->exchange_timeout);
  call_->Start();
}

bool ExchangePeer::over_shm() const { return call_ != nullptr && call_->over_shm(); }

bool ExchangePeer::over_device() const { return call_ != nullptr && call_->over_device(); }

int32_t ExchangePeer::max_rows(const DispatchBatch& batch) const {
  return std::min(max_rows_, call_->MaxRows(batch));
}

void ExchangePeer::Send(const FrameHeader& header, const DispatchSlice& slice, absl::Time now) {
  M1_CHECK(connected_);
  if (unanswered_.empty()) waiting_since_ = now;
  unanswered_.emplace(header.id, now);
  sent_bytes_ += header.frame_bytes();
  call_->Send(header, slice);
}

absl::StatusOr<bool> ExchangePeer::SendFromDevice(const FrameHeader& header,
                                                  const DispatchSlice& slice, absl::Time now) {
  FrameHeader sent = header;
  M1_ASSIGN_OR_RETURN(const bool took, call_->TakeFromDevice(slice, &sent));
  if (!took) return false;
  sent_bytes_ += header.num_rows * header.row_bytes();
  Send(sent, slice, now);
  return true;
}

void ExchangePeer::Flush() {
  if (connected_) call_->Flush();
}

void ExchangePeer::ReadAnswers() {
  if (over_shm() || over_device()) call_->ReadAnswers();
}

absl::Status ExchangePeer::TakeRows(const FrameHeader& answer, TensorView out,
                                    std::span<const int32_t> out_indices) {
  if (call_ == nullptr) return absl::InternalError("rows of an answer without a connection");
  received_bytes_ += answer.num_pairs * answer.row_bytes();
  return call_->TakeRows(answer, out, out_indices);
}

void ExchangePeer::Described(std::vector<int32_t> experts, int32_t max_rows) {
  experts_ = std::move(experts);
  max_rows_ = max_rows;
}

void ExchangePeer::Refuse(const std::string& difference) {
  mismatched_ = true;
  Lose(difference);
}

void ExchangePeer::Opened() {
  connected_ = true;
  mismatched_ = false;
  M1_LOG(kInfo) << "expert worker connected address=" << Snapshot().address
                << " experts=" << experts_.size();
  last_error_.clear();
  listener_->OnPeerConnected(id_);
}

void ExchangePeer::Received(ByteChunks* frame) {
  backoff_ = options_->min_backoff;
  waiting_since_ = absl::Now();
  received_bytes_ += frame->remaining();
  const absl::StatusOr<uint64_t> id = listener_->OnPeerFrame(id_, frame);
  if (!id.ok()) return Lose(std::string(id.status().message()));
  // An answer to nothing must not pass for one that is owed: that one would be awaited for ever.
  const auto sent = unanswered_.find(*id);
  if (sent == unanswered_.end()) {
    return Lose(absl::StrCat("answer to frame ", *id, ", which is not open"));
  }
  if (options_->observer != nullptr) {
    options_->observer->OnAnswer(address_, waiting_since_ - sent->second);
  }
  unanswered_.erase(sent);
}

void ExchangePeer::Heard() { waiting_since_ = absl::Now(); }

void ExchangePeer::DeviceReady() {
  last_fallback_.clear();
  M1_LOG(kInfo) << "rows go from device to device address=" << address_;
  listener_->OnPeerChanged(id_);
}

void ExchangePeer::FellBack(const std::string& what, const absl::Status& why) {
  // A reason that stays is logged once, not with every connection.
  if (why.message() == last_fallback_) return;
  last_fallback_ = std::string(why.message());
  M1_LOG(kWarning) << "no " << what << " with expert worker, using gRPC address=" << address_
                   << " reason=\"" << last_fallback_ << "\"";
}

void ExchangePeer::Lose(const std::string& error) {
  if (call_ != nullptr) std::exchange(call_, nullptr)->Abandon();
  // A difference that stays is logged once, not with every attempt.
  if (error != last_error_) {
    M1_LOG(kWarning) << "expert worker not connected address=" << address_ << " error=\"" << error
                     << "\"";
  }
  last_error_ = error;
  unanswered_.clear();
  const double spread = std::uniform_real_distribution<double>(0.8, 1.2)(jitter_);
  retry_at_ = absl::Now() + backoff_ * spread;
  backoff_ = std::min(2 * backoff_, options_->max_backoff);
  if (std::exchange(connected_, false)) listener_->OnPeerLost(id_);
}

}  // namespace m1
