// Weights in the memory of a backend.
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/model/weights.h"
#include "common/tensor/tensor.h"

namespace m1 {

// Copies to the device, each tensor once; where the backend's memory is the host's, the weights
// themselves. What Add returns lives as long as this, and where nothing is copied as long as what
// it was given.
class DeviceWeights {
 public:
  // Borrowed; outlives this.
  explicit DeviceWeights(KernelBackend* backend) : backend_(backend) {}

  // Errors: those of KernelBackend::Upload.
  absl::StatusOr<AttentionWeights> Add(AttentionWeights weights);
  absl::StatusOr<ExpertWeights> Add(ExpertWeights weights);

  int64_t num_bytes() const { return num_bytes_; }

 private:
  absl::Status Move(ConstTensorView* view);
  absl::Status Move(MatrixView* matrix);
  template <typename... Views>
  absl::Status MoveAll(Views*... views);
  absl::Status Move(AttentionLayerWeights* layer);

  KernelBackend* const backend_;
  std::map<const void*, Tensor> copies_;  // by the data of the original
  int64_t num_bytes_ = 0;                 // of the copies
};

}  // namespace m1
