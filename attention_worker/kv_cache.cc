#include "attention_worker/kv_cache.h"

#include "common/base/status_macros.h"

namespace m1 {

KvCache::KvCache(const ModelConfig& config, DType activation_dtype, int64_t num_blocks,
                 KernelBackend* backend)
    : backend_(backend) {
  const Shape shape{num_blocks, config.num_kv_heads, kKvBlockTokens, config.head_dim};
  for (int32_t i = 0; i < config.num_softmax_layers(); ++i) {
    layers_.push_back(
        {backend->NewTensor(activation_dtype, shape), backend->NewTensor(activation_dtype, shape)});
  }
}

KvPool KvCache::pool(int32_t softmax_index) {
  Layer& layer = layers_[static_cast<size_t>(softmax_index)];
  return {layer.k.view(), layer.v.view()};
}

absl::Status KvCache::CopyBlock(int32_t from, int32_t to) {
  for (Layer& layer : layers_) {
    for (Tensor* tensor : {&layer.k, &layer.v}) {
      M1_RETURN_IF_ERROR(backend_->CopyRow(tensor->view(), from, tensor->view(), to));
    }
  }
  return absl::OkStatus();
}

int64_t KvCache::BlockBytes(const ModelConfig& config, DType activation_dtype) {
  return int64_t{2} * config.num_softmax_layers() * config.num_kv_heads * kKvBlockTokens *
         config.head_dim * DTypeBytes(activation_dtype);
}

}  // namespace m1
