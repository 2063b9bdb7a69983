#include "expert_worker/expert_store.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

absl::Status CheckShape(absl::string_view name, const MatrixView& weight, const Shape& wanted) {
  if (weight.shape() == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", weight.shape().ToString(), ", want ", wanted.ToString()));
}

absl::Status CheckWeights(const ExpertModelShape& shape, const ExpertWeights& weights) {
  const Shape up = {shape.intermediate_size, shape.hidden_size};
  const Shape down = {shape.hidden_size, shape.intermediate_size};
  M1_RETURN_IF_ERROR(CheckShape("w1", weights.w1, up));
  M1_RETURN_IF_ERROR(CheckShape("w2", weights.w2, down));
  return CheckShape("w3", weights.w3, up);
}

}  // namespace

ExpertModelShape ShapeOf(const ModelConfig& config) {
  return {config.num_layers, config.num_experts, config.hidden_size,
          config.expert_intermediate_size};
}

absl::StatusOr<ExpertStore> ExpertStore::Create(const ExpertModelShape& shape,
                                                std::vector<int32_t> experts,
                                                const WeightsOf& weights_of) {
  ExpertStore store;
  store.shape_ = shape;
  store.place_.assign(static_cast<size_t>(shape.num_experts), -1);
  for (size_t i = 0; i < experts.size(); ++i) {
    const int32_t expert = experts[i];
    if (expert < 0 || expert >= shape.num_experts || (i > 0 && experts[i - 1] >= expert)) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts must ascend within [0, ", shape.num_experts, "), got ", expert));
    }
    store.place_[static_cast<size_t>(expert)] = static_cast<int32_t>(i);
  }
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (const int32_t expert : experts) {
      M1_ASSIGN_OR_RETURN(const ExpertWeights weights, weights_of(layer, expert));
      store.weights_.push_back(weights);
      M1_RETURN_IF_ERROR(AddContext(CheckWeights(shape, store.weights_.back()),
                                    absl::StrCat("layer ", layer, " expert ", expert)));
    }
  }
  store.experts_ = std::move(experts);
  return store;
}

absl::StatusOr<ExpertStore> ExpertStore::Open(const Checkpoint& checkpoint,
                                              std::vector<int32_t> experts, DeviceWeights* device) {
  return Create(ShapeOf(checkpoint.config()), std::move(experts),
                [&checkpoint, device](int32_t layer, int32_t expert) {
                  return device->Add(checkpoint.expert_weights(layer, expert));
                });
}

const ExpertWeights& ExpertStore::weights(int32_t layer, int32_t expert) const {
  M1_CHECK(layer >= 0 && layer < shape_.num_layers && hosts(expert));
  return weights_[static_cast<size_t>(layer) * experts_.size() + place(expert)];
}

}  // namespace m1
