// The experts that this worker hosts: the same ones in every layer, with their weights. Weights are
// borrowed, normally from the mapping of a Checkpoint, so that only pages of hosted experts are
// ever touched, or from a device's memory. Immutable, thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "common/model/checkpoint.h"
#include "common/model/config.h"
#include "common/model/weights.h"
#include "common/worker/device_weights.h"

namespace m1 {

// Sizes that rows and ids are checked against.
struct ExpertModelShape {
  int32_t num_layers = 0;
  int32_t num_experts = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
};

ExpertModelShape ShapeOf(const ModelConfig& config);

class ExpertStore {
 public:
  using WeightsOf = std::function<absl::StatusOr<ExpertWeights>(int32_t layer, int32_t expert)>;

  // `experts` are sorted; weights_of is called once for each layer and hosted expert, and what it
  // returns outlives the store. Errors: InvalidArgument for an id out of range or doubled, or
  // weights of another shape; those of weights_of.
  static absl::StatusOr<ExpertStore> Create(const ExpertModelShape& shape,
                                            std::vector<int32_t> experts,
                                            const WeightsOf& weights_of);

  // The weights of a checkpoint as `device` has them; both outlive the store.
  static absl::StatusOr<ExpertStore> Open(const Checkpoint& checkpoint,
                                          std::vector<int32_t> experts, DeviceWeights* device);

  const ExpertModelShape& shape() const { return shape_; }
  const std::vector<int32_t>& experts() const { return experts_; }
  bool hosts(int32_t expert) const {
    return expert >= 0 && expert < shape_.num_experts && place_[static_cast<size_t>(expert)] >= 0;
  }
  // Where a hosted expert stands in experts().
  size_t place(int32_t expert) const {
    return static_cast<size_t>(place_[static_cast<size_t>(expert)]);
  }
  // `layer` in range, `expert` hosted.
  const ExpertWeights& weights(int32_t layer, int32_t expert) const;

 private:
  ExpertStore() = default;

  ExpertModelShape shape_;
  std::vector<int32_t> experts_;
  std::vector<int32_t> place_;          // [num_experts]: index in experts_, or -1
  std::vector<ExpertWeights> weights_;  // [num_layers, experts_.size()]
};

}  // namespace m1
