#include "common/worker/device_weights.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {

absl::Status DeviceWeights::Move(ConstTensorView* view) {
  if (view->num_bytes() == 0) return absl::OkStatus();
  auto copy = copies_.find(view->data());
  if (copy == copies_.end()) {
    Tensor tensor = backend_->NewTensor(view->dtype(), view->shape());
    M1_RETURN_IF_ERROR(backend_->Upload(*view, tensor.view()));
    num_bytes_ += view->num_bytes();
    copy = copies_.emplace(view->data(), std::move(tensor)).first;
  }
  M1_CHECK_MSG(copy->second.shape() == view->shape(), "two tensors begin at one address");
  *view = copy->second.view();
  return absl::OkStatus();
}

absl::Status DeviceWeights::Move(MatrixView* matrix) {
  M1_RETURN_IF_ERROR(Move(&matrix->values));
  return matrix->is_quantized() ? Move(&matrix->scales) : absl::OkStatus();
}

template <typename... Views>
absl::Status DeviceWeights::MoveAll(Views*... views) {
  absl::Status status;
  (status.Update(status.ok() ? Move(views) : status), ...);
  return status;
}

absl::Status DeviceWeights::Move(AttentionLayerWeights* layer) {
  M1_RETURN_IF_ERROR(MoveAll(&layer->input_norm, &layer->post_attention_norm, &layer->gate));
  if (auto& w = layer->lightning; w) {
    M1_RETURN_IF_ERROR(MoveAll(&w->qkv_proj, &w->output_gate, &w->norm, &w->out_proj));
  }
  if (auto& w = layer->softmax; w) {
    M1_RETURN_IF_ERROR(MoveAll(&w->q_proj, &w->k_proj, &w->v_proj, &w->o_proj));
  }
  if (auto& w = layer->shared_mlp; w) {
    M1_RETURN_IF_ERROR(MoveAll(&w->gate_proj, &w->up_proj, &w->down_proj, &w->coefficient));
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionWeights> DeviceWeights::Add(AttentionWeights weights) {
  if (backend_->device_kind() == DeviceKind::kCpu) return weights;
  M1_RETURN_IF_ERROR(MoveAll(&weights.embedding, &weights.final_norm, &weights.lm_head));
  for (AttentionLayerWeights& layer : weights.layers) M1_RETURN_IF_ERROR(Move(&layer));
  return weights;
}

absl::StatusOr<ExpertWeights> DeviceWeights::Add(ExpertWeights weights) {
  if (backend_->device_kind() == DeviceKind::kCpu) return weights;
  M1_RETURN_IF_ERROR(MoveAll(&weights.w1, &weights.w2, &weights.w3));
  return weights;
}

}  // namespace m1
