#include "common/rpc/exchange_peer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/rpc/exchange_peer_call.h"

namespace m1 {

ExchangePeer::ExchangePeer(PeerId id, std::string address, const ExchangePeerOptions* options,
                           grpc::CompletionQueue* queue, ExchangePeerListener* listener)
    : id_(id),
      address_(std::move(address)),
      options_(options),
      queue_(queue),
      listener_(listener),
      jitter_(static_cast<uint32_t>(std::hash<std::string>()(address_)) ^
              static_cast<uint32_t>(absl::ToUnixNanos(absl::Now()))),
      backoff_(options->min_backoff) {}

ExchangePeer::~ExchangePeer() {
  if (call_ != nullptr) call_->Abandon();
}

ExpertPeer ExchangePeer::Snapshot() const {
  return {address_, connected_, experts_, connected_ ? "" : last_error_};
}

absl::Time ExchangePeer::next_poll() const {
  if (call_ == nullptr) return retry_at_;
  return !unanswered_.empty() ? waiting_since_ + options_->exchange_timeout
                              : absl::InfiniteFuture();
}

void ExchangePeer::Poll(absl::Time now) {
  if (now < next_poll()) return;
  if (call_ == nullptr) {
    Connect(now);
  } else {
    Lose(absl::StrCat("no answer for ", absl::FormatDuration(options_->exchange_timeout)));
  }
}

void ExchangePeer::Connect(absl::Time now) {
  call_ = std::make_shared<Call>(this, now + options_->exchange_timeout);
  call_->Start();
}

void ExchangePeer::Send(uint64_t id, const grpc::ByteBuffer& message, absl::Time now) {
  M1_CHECK(connected_);
  if (unanswered_.empty()) waiting_since_ = now;
  unanswered_.insert(id);
  call_->Send(message);
}

void ExchangePeer::Described(std::vector<int32_t> experts, int32_t max_rows) {
  experts_ = std::move(experts);
  max_rows_ = max_rows;
}

void ExchangePeer::Opened() {
  M1_LOG(kInfo) << "expert worker connected address=" << address_ << " experts=" << experts_.size();
  connected_ = true;
  last_error_.clear();
  listener_->OnPeerConnected(id_);
}

void ExchangePeer::Received(const grpc::ByteBuffer& message) {
  backoff_ = options_->min_backoff;
  waiting_since_ = absl::Now();
  const absl::StatusOr<uint64_t> id = listener_->OnPeerMessage(id_, message);
  if (!id.ok()) return Lose(std::string(id.status().message()));
  // An answer to nothing must not pass for one that is owed: that one would be awaited for ever.
  if (unanswered_.erase(*id) == 0)
    Lose(absl::StrCat("answer to frame ", *id, ", which is not open"));
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
