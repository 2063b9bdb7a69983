// The recurrent memory of the lightning layers: a slot per resident sequence. Memory is reserved at
// construction and becomes resident when first written.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

#include "common/kernels/backend.h"
#include "common/model/config.h"
#include "common/tensor/tensor.h"

namespace m1 {

class LinearState {
 public:
  // `backend` is borrowed: its memory holds the slots.
  LinearState(const ModelConfig& config, DType activation_dtype, int64_t num_slots,
              KernelBackend* backend);

  // Makes the slot the memory of an empty sequence.
  absl::Status Reset(int32_t slot);
  // State and open chunk of all layers.
  absl::Status Copy(int32_t from_slot, int32_t to_slot);
  // One layer of a slot; `lightning_index` counts the lightning layers from 0.
  LightningSequence sequence(int32_t slot, int32_t lightning_index, const SequenceRows& rows);

  static int64_t SlotBytes(const ModelConfig& config, DType activation_dtype);

 private:
  KernelBackend* const backend_;
  Tensor state_;   // fp32 [num_slots, lightning_layers, num_heads, head_dim of k, head_dim of v]
  Tensor open_k_;  // act [num_slots, lightning_layers, num_heads, kLightningChunk, head_dim]
  Tensor open_v_;  // act [num_slots, lightning_layers, num_heads, kLightningChunk, head_dim]
};

}  // namespace m1
