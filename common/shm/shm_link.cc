#include "common/shm/shm_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr int64_t kPairBytes = static_cast<int64_t>(sizeof(RowExpert));

}  // namespace

absl::Status CheckRowFits(const SlotLayout& layout, int64_t hidden_size, int64_t num_experts) {
  const int64_t row_bytes = hidden_size * DTypeBytes(DType::kF32);
  const int64_t num_bytes = kFrameHeaderBytes + (row_bytes + kPairBytes) * num_experts;
  if (num_bytes <= layout.slot_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a row's answers take up to ", num_bytes,
                                                 " bytes, a slot has ", layout.slot_bytes));
}

absl::StatusOr<std::unique_ptr<ShmLink>> ShmLink::Connect(const ShmOffer& offer,
                                                          const SlotLayout& layout,
                                                          const SharedMemory& own_doorbell) {
  if (offer.boot_id != BootId()) return absl::UnavailableError("the worker is on another host");
  M1_RETURN_IF_ERROR(layout.Validate());
  M1_ASSIGN_OR_RETURN(UniqueFd socket, ConnectAbstract(offer.socket));
  M1_RETURN_IF_ERROR(CheckSameUser(socket.get()));
  M1_ASSIGN_OR_RETURN(SharedMemory memory, SharedMemory::Create(layout.num_bytes()));
  M1_RETURN_IF_ERROR(SendHello(socket.get(), offer.token, layout, memory, own_doorbell));
  return std::unique_ptr<ShmLink>(new ShmLink(std::move(socket), std::move(memory), layout));
}

ShmLink::ShmLink(UniqueFd socket, SharedMemory memory, const SlotLayout& layout)
    : socket_(std::move(socket)), memory_(std::move(memory)), slots_(memory_.data(), layout) {}

absl::StatusOr<bool> ShmLink::Accepted() {
  M1_ASSIGN_OR_RETURN(std::optional<SharedMemory> doorbell, ReceiveWelcome(socket_.get()));
  if (!doorbell.has_value()) return false;
  worker_doorbell_ = *std::move(doorbell);
  return true;
}

bool ShmLink::HungUp() const { return m1::HungUp(socket_.get()); }

int32_t ShmLink::MaxRows(const DispatchBatch& batch) const {
  const int64_t row_bytes = batch.rows.dim(1) * DTypeBytes(batch.rows.dtype());
  const int64_t pairs = std::max(1, batch.experts_per_row);
  const int64_t most = std::max(row_bytes + pairs * kPairBytes, pairs * row_bytes);
  const int64_t rows =
      (slots_.layout().slot_bytes - kFrameHeaderBytes) / std::max<int64_t>(1, most);
  return static_cast<int32_t>(std::clamp<int64_t>(rows, 1, INT32_MAX));
}

void ShmLink::Send(const FrameHeader& header, const DispatchSlice& slice) {
  const int64_t num_bytes = header.frame_bytes();
  M1_CHECK(num_bytes <= slots_.layout().slot_bytes);
  const int32_t slot = slots_.Free();
  if (slot < 0) {
    std::string frame(static_cast<size_t>(num_bytes), '\0');
    WriteDispatch(header, slice, reinterpret_cast<std::byte*>(frame.data()));
    kept_.push_back(std::move(frame));
    return;
  }
  WriteDispatch(header, slice, slots_.dispatch(slot));
  slots_.Send(slot, num_bytes);
  sent_ = true;
}

void ShmLink::Flush() {
  if (!std::exchange(sent_, false)) return;
  Doorbell(reinterpret_cast<DoorbellWords*>(worker_doorbell_.data())).Ring();
}

void ShmLink::Release(int32_t slot) {
  slots_.Release(slot);
  if (kept_.empty()) return;
  const std::string frame = std::move(kept_.front());
  kept_.pop_front();
  std::memcpy(slots_.dispatch(slot), frame.data(), frame.size());
  slots_.Send(slot, static_cast<int64_t>(frame.size()));
  sent_ = true;
  Flush();
}

}  // namespace m1
