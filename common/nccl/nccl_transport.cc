#include "common/nccl/nccl_transport.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/status_macros.h"
#include "common/nccl/errors.h"
#include "common/nccl/nccl_link.h"

namespace m1 {
namespace nccl {
namespace {

absl::StatusOr<std::string> NewKey() {
  UniqueId id;
  M1_RETURN_IF_ERROR(NcclStatus(NewUniqueId(&id), "unique id"));
  return std::string(id.bytes.begin(), id.bytes.end());
}

absl::StatusOr<UniqueId> ParseKey(const std::string& key) {
  UniqueId id;
  if (key.size() != id.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("NCCL: unique id of ", key.size(), " bytes, want ", id.bytes.size()));
  }
  std::copy(key.begin(), key.end(), id.bytes.begin());
  return id;
}

class NcclTransport final : public DeviceTransport {
 public:
  NcclTransport(KernelBackend* backend, cuda::Stream stream)
      : pool_(std::make_shared<LinkMemoryPool>()), context_{backend, stream, &reaper_} {}

  std::string name() const override { return "nccl"; }

  absl::StatusOr<DeviceLinkKeys> NewKeys() override {
    DeviceLinkKeys keys;
    M1_ASSIGN_OR_RETURN(keys.dispatch, NewKey());
    M1_ASSIGN_OR_RETURN(keys.combine, NewKey());
    return keys;
  }

  absl::StatusOr<std::shared_ptr<DeviceLink>> Open(const DeviceLinkKeys& keys,
                                                   const DeviceSlots& slots, DeviceLinkEnd end,
                                                   absl::Duration timeout) override {
    M1_RETURN_IF_ERROR(slots.Validate());
    M1_ASSIGN_OR_RETURN(const UniqueId dispatch, ParseKey(keys.dispatch));
    M1_ASSIGN_OR_RETURN(const UniqueId combine, ParseKey(keys.combine));
    M1_ASSIGN_OR_RETURN(std::shared_ptr<LinkMemory> memory, pool_->Take(slots));
    return NcclLink::Open(context_, dispatch, combine, slots, std::move(memory), end,
                          absl::Now() + timeout);
  }

 private:
  const std::shared_ptr<LinkMemoryPool> pool_;
  Reaper reaper_;  // before what it holds ends
  const LinkContext context_;
};

}  // namespace
}  // namespace nccl

std::unique_ptr<DeviceTransport> CreateNcclTransport(KernelBackend* backend, cuda::Stream stream) {
  return std::make_unique<nccl::NcclTransport>(backend, stream);
}

}  // namespace m1
