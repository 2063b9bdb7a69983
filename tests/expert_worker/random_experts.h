// Experts with random weights, and batches of random rows, for tests without a checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"

namespace m1 {

// Of the exchange's suites.
inline constexpr ExpertModelShape kExchangeShape = {
    .num_layers = 3, .num_experts = 8, .hidden_size = 48, .intermediate_size = 32};

// fp32 values within (-1, 1), as fp32 or bf16.
inline Tensor RandomTensor(DType dtype, const Shape& shape, std::mt19937* random) {
  Tensor tensor(dtype, shape);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const float value = uniform(*random);
    if (dtype == DType::kBf16) {
      tensor.data_as<Bf16>()[i] = FloatToBf16(value);
    } else {
      tensor.data_as<float>()[i] = value;
    }
  }
  return tensor;
}

// All experts of a small model; ids and layers give the same weights in every instance of one seed.
class RandomExperts {
 public:
  RandomExperts(const ExpertModelShape& shape, DType dtype, uint32_t seed = 1) : shape_(shape) {
    std::mt19937 random(seed);
    const Shape up = {shape.intermediate_size, shape.hidden_size};
    const Shape down = {shape.hidden_size, shape.intermediate_size};
    for (int32_t i = 0; i < shape.num_layers * shape.num_experts; ++i) {
      tensors_.push_back(RandomTensor(dtype, up, &random));
      tensors_.push_back(RandomTensor(dtype, down, &random));
      tensors_.push_back(RandomTensor(dtype, up, &random));
    }
  }

  const ExpertModelShape& shape() const { return shape_; }
  ExpertWeights weights(int32_t layer, int32_t expert) const {
    const size_t first = 3 * static_cast<size_t>(layer * shape_.num_experts + expert);
    return {tensors_[first].view(), tensors_[first + 1].view(), tensors_[first + 2].view()};
  }
  ExpertStore Store(std::vector<int32_t> experts) const {
    auto store = ExpertStore::Create(
        shape_, std::move(experts),
        [this](int32_t layer, int32_t expert) { return weights(layer, expert); });
    M1_CHECK(store.ok());
    return *std::move(store);
  }

 private:
  ExpertModelShape shape_;
  std::vector<Tensor> tensors_;
};

// An executor with its own store and a reference backend.
struct LocalExperts {
  LocalExperts(const RandomExperts& weights, std::vector<int32_t> experts, DType dtype)
      : store(weights.Store(std::move(experts))),
        backend(CreateReferenceBackend()),
        executor(&store, backend.get(), dtype) {}

  ExpertStore store;
  std::unique_ptr<KernelBackend> backend;
  ExpertFfn executor;
};

// Random rows, each routed to `experts_per_row` different experts.
struct RandomBatch {
  RandomBatch(const ExpertModelShape& shape, DType dtype, int64_t num_rows, uint32_t seed = 7)
      : out(dtype, {num_rows, 2, shape.hidden_size}) {
    std::mt19937 random(seed);
    rows = RandomTensor(dtype, {num_rows, shape.hidden_size}, &random);
    layer = static_cast<int32_t>(random() % static_cast<uint64_t>(shape.num_layers));
    const auto num_experts = static_cast<uint64_t>(shape.num_experts);
    for (int64_t row = 0; row < num_rows; ++row) {
      const uint64_t first = random() % num_experts;
      const uint64_t second = (first + 1 + random() % (num_experts - 1)) % num_experts;
      expert_ids.push_back(static_cast<int32_t>(first));
      expert_ids.push_back(static_cast<int32_t>(second));
    }
  }

  DispatchBatch batch(int32_t lane = 0) {
    return {lane, layer, 2, rows.view(), expert_ids, out.view()};
  }
  std::vector<std::byte> out_bytes() const {
    const auto* begin = static_cast<const std::byte*>(out.view().data());
    return {begin, begin + out.view().num_bytes()};
  }

  int32_t layer = 0;
  Tensor rows;  // act [num_rows, hidden]
  std::vector<int32_t> expert_ids;
  Tensor out;  // act [num_rows, 2, hidden]
};

// All of its pairs, in order.
inline std::vector<RowExpert> PairsOf(const RandomBatch& batch) {
  std::vector<RowExpert> pairs;
  for (size_t i = 0; i < batch.expert_ids.size(); ++i) {
    pairs.push_back({static_cast<int32_t>(i / 2), batch.expert_ids[i]});
  }
  return pairs;
}

// What the batch must give: each pair alone through the backend.
inline std::vector<std::byte> ComputeAlone(const RandomExperts& weights, const RandomBatch& batch) {
  const std::unique_ptr<KernelBackend> backend = CreateReferenceBackend();
  const int64_t hidden = weights.shape().hidden_size;
  const DType dtype = batch.rows.dtype();
  Tensor out(dtype, {static_cast<int64_t>(batch.expert_ids.size()), hidden});
  Tensor mid(dtype, {1, weights.shape().intermediate_size});
  for (size_t i = 0; i < batch.expert_ids.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    const ExpertWeights expert = weights.weights(batch.layer, batch.expert_ids[i]);
    const ExpertGroup group = {0, 1, expert.w1, expert.w2, expert.w3};
    M1_CHECK(backend
                 ->ExpertFfn(batch.rows.view().Rows(index / 2, 1), {&group, 1}, mid.view(),
                             out.view().Rows(index, 1))
                 .ok());
  }
  const auto* begin = static_cast<const std::byte*>(out.view().data());
  return {begin, begin + out.view().num_bytes()};
}

}  // namespace m1
