#include "attention_worker/linear_state.h"

#include <cstring>

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

LinearState::LinearState(const ModelConfig& config, DType activation_dtype, int64_t num_slots)
    : state_(DType::kF32, StateShape(config, num_slots)),
      open_k_(activation_dtype, OpenShape(config, num_slots)),
      open_v_(activation_dtype, OpenShape(config, num_slots)) {}

// Rows of the open chunk are written before they are read: only S must start at zero.
void LinearState::Reset(int32_t slot) {
  const TensorView state = state_.view()[slot];
  std::memset(state.data(), 0, static_cast<size_t>(state.num_bytes()));
}

void LinearState::Copy(int32_t from_slot, int32_t to_slot) {
  for (Tensor* tensor : {&state_, &open_k_, &open_v_}) {
    const TensorView from = tensor->view()[from_slot];
    std::memcpy(tensor->view()[to_slot].data(), from.data(), static_cast<size_t>(from.num_bytes()));
  }
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
