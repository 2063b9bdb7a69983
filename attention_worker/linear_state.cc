#include "attention_worker/linear_state.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

Shape OpenShape(const ModelConfig& config, int64_t num_slots) {
  return {num_slots, config.num_lightning_layers(), config.num_heads, kLightningChunk,
          config.head_dim};
}

Shape StateShape(const ModelConfig& config, int64_t num_slots) {
  return {num_slots, config.num_lightning_layers(), config.num_heads, config.head_dim,
          config.head_dim};
}

}  // namespace

LinearState::LinearState(const ModelConfig& config, DType activation_dtype, int64_t num_slots,
                         KernelBackend* backend)
    : backend_(backend),
      state_(backend->NewTensor(DType::kF32, StateShape(config, num_slots))),
      open_k_(backend->NewTensor(activation_dtype, OpenShape(config, num_slots))),
      open_v_(backend->NewTensor(activation_dtype, OpenShape(config, num_slots))) {}

// Rows of the open chunk are written before they are read: only S must start at zero.
absl::Status LinearState::Reset(int32_t slot) { return backend_->Zero(state_.view()[slot]); }

absl::Status LinearState::Copy(int32_t from_slot, int32_t to_slot) {
  for (Tensor* tensor : {&state_, &open_k_, &open_v_}) {
    M1_RETURN_IF_ERROR(backend_->CopyRow(tensor->view(), from_slot, tensor->view(), to_slot));
  }
  return absl::OkStatus();
}

LightningSequence LinearState::sequence(int32_t slot, int32_t lightning_index,
                                        const SequenceRows& rows) {
  return {.rows = rows,
          .state = state_.view()[slot][lightning_index],
          .open_k = open_k_.view()[slot][lightning_index],
          .open_v = open_v_.view()[slot][lightning_index]};
}

int64_t LinearState::SlotBytes(const ModelConfig& config, DType activation_dtype) {
  return StateShape(config, 1).num_elements() * DTypeBytes(DType::kF32) +
         2 * OpenShape(config, 1).num_elements() * DTypeBytes(activation_dtype);
}

}  // namespace m1
