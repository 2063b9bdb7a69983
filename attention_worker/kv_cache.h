// Keys and values of the softmax layers, in blocks of kKvBlockTokens tokens. Block b of a lease
// holds the same tokens in every layer. Memory is reserved at construction and becomes resident
// when first written.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

#include "common/kernels/backend.h"
#include "common/model/config.h"
#include "common/tensor/tensor.h"

namespace m1 {

class KvCache {
 public:
  // `backend` is borrowed: its memory holds the blocks.
  KvCache(const ModelConfig& config, DType activation_dtype, int64_t num_blocks,
          KernelBackend* backend);

  // `softmax_index` counts the softmax layers from 0.
  KvPool pool(int32_t softmax_index);

  // The block's keys and values in all layers.
  absl::Status CopyBlock(int32_t from, int32_t to);

  // Bytes of one block over all softmax layers.
  static int64_t BlockBytes(const ModelConfig& config, DType activation_dtype);

 private:
  struct Layer {
    Tensor k;  // act [num_blocks, num_kv_heads, kKvBlockTokens, head_dim]
    Tensor v;  // act [num_blocks, num_kv_heads, kKvBlockTokens, head_dim]
  };
  KernelBackend* const backend_;
  std::vector<Layer> layers_;
};

}  // namespace m1
