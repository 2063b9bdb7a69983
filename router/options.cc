#include "router/options.h"

#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

absl::Status BadFlag(absl::string_view flag, absl::string_view value, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", value, ", must be ", wanted));
}

absl::Status CheckInt(absl::string_view flag, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return BadFlag(flag, absl::StrCat(value), absl::StrCat(low, "..", high));
}

}  // namespace

absl::Status RouterOptions::Validate() const {
  absl::Status status = CheckInt("port", port, 0, 65535);
  status.Update(CheckInt("queue_size", queue_size, 1, 1000000));
  status.Update(CheckInt("max_message_bytes", max_message_bytes, 1024, 2147483647));
  status.Update(CheckInt("repetition_run_tokens", repetition_run_tokens, 0, 2147483647));
  if (!(repetition_probability > 0.0 && repetition_probability < 1.0)) {
    status.Update(BadFlag("repetition_probability", absl::StrCat(repetition_probability),
                          "above 0 and below 1"));
  }
  if (address.empty()) status.Update(BadFlag("address", "empty", "an address to listen on"));
  if (model_directory.empty()) status.Update(BadFlag("model", "empty", "a model's directory"));
  if (attention_workers.empty()) {
    status.Update(BadFlag("attention_workers", "empty", "a list of at least one address"));
  }
  if (priority_ageing <= absl::ZeroDuration() || priority_ageing > absl::Hours(24)) {
    status.Update(BadFlag("priority_ageing", absl::FormatDuration(priority_ageing),
                          "above zero, at most 24h"));
  }
  if (worker_loss_timeout <= absl::ZeroDuration()) {
    status.Update(
        BadFlag("worker_loss_timeout", absl::FormatDuration(worker_loss_timeout), "above zero"));
  }
  if (drain_timeout < absl::ZeroDuration()) {
    status.Update(BadFlag("drain_timeout", absl::FormatDuration(drain_timeout), "zero or above"));
  }
  if (slow_reader_timeout <= absl::ZeroDuration()) {
    status.Update(
        BadFlag("slow_reader_timeout", absl::FormatDuration(slow_reader_timeout), "above zero"));
  }
  return status;
}

}  // namespace m1
