#include "router/grpc_violations.h"

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"

namespace m1 {

void Violations::Add(std::string field, std::string description) {
  if (full()) return;
  violations_.emplace_back(std::move(field), std::move(description));
}

absl::Status Violations::ToStatus() const {
  if (violations_.empty()) return absl::OkStatus();
  google::rpc::BadRequest details;
  for (const auto& violation : violations_) {
    auto* proto = details.add_field_violations();
    proto->set_field(violation.first);
    proto->set_description(violation.second);
  }
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat(violations_.front().first, " ", violations_.front().second));
  status.SetPayload("type.googleapis.com/google.rpc.BadRequest",
                    absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo details;
  details.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  details.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo",
                    absl::Cord(details.SerializeAsString()));
  return status;
}

}  // namespace m1
