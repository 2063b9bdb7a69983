#include "common/exchange/device_link.h"

#include "absl/strings/str_cat.h"

namespace m1 {

absl::Status DeviceSlots::Validate() const {
  if (num_slots < 1 || num_slots > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat(num_slots, " slots of a device's memory, want 1 to ", kMaxSlots));
  }
  if (slot_bytes < 1 || slot_bytes > kMaxSlotBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots of ", slot_bytes, " bytes, want 1 to ", kMaxSlotBytes));
  }
  return absl::OkStatus();
}

}  // namespace m1
