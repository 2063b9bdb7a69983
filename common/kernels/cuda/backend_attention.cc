#include <algorithm>
#include <cmath>
#include <vector>

#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/validate.h"

namespace m1::cuda {
namespace {

// Rows of no sequence go nowhere.
std::vector<KvPlace> PlacesOf(std::span<const PagedSequence> sequences, int64_t num_rows) {
  std::vector<KvPlace> places(static_cast<size_t>(num_rows), {kNoBlock, 0});
  for (const PagedSequence& sequence : sequences) {
    for (int64_t i = 0; i < sequence.rows.num_rows; ++i) {
      const int64_t position = sequence.rows.first_position + i;
      places[static_cast<size_t>(sequence.rows.row_begin + i)] = {
          sequence.block_table[static_cast<size_t>(position / kKvBlockTokens)],
          Int(position % kKvBlockTokens)};
    }
  }
  return places;
}

// All sequences' tables, one after another.
std::vector<int32_t> TablesOf(std::span<const PagedSequence> sequences) {
  std::vector<int32_t> tables;
  for (const PagedSequence& sequence : sequences) {
    tables.insert(tables.end(), sequence.block_table.begin(), sequence.block_table.end());
  }
  return tables;
}

// By the kernel that takes them.
struct SoftmaxSplit {
  std::vector<SoftmaxSequence> few;
  std::vector<SoftmaxSequence> many;
  int64_t slots = 0;  // of the few
};

// `tables`: TablesOf(sequences) in the device's memory.
SoftmaxSplit Split(std::span<const PagedSequence> sequences, const int32_t* tables,
                   int group_heads) {
  constexpr int64_t kMaxSlots = 8192;  // 273 MB for M1's 64 heads of 128
  SoftmaxSplit split;
  for (const PagedSequence& sequence : sequences) {
    SoftmaxSequence made{.block_table = tables,
                         .first_position = Int(sequence.rows.first_position),
                         .row_begin = Int(sequence.rows.row_begin),
                         .num_rows = Int(sequence.rows.num_rows),
                         .slot_begin = Int(split.slots)};
    tables += sequence.block_table.size();
    if (made.num_rows == 0) continue;
    if (TakesSoftmaxFew(made, group_heads, kMaxSlots - split.slots)) {
      split.slots += made.num_slots();
      split.few.push_back(made);
    } else {
      split.many.push_back(made);
    }
  }
  return split;
}

void SetSequences(std::span<const SoftmaxSequence> sequences, const SoftmaxSequence* on_device,
                  SoftmaxArgs* args) {
  args->sequences = on_device;
  args->num_sequences = Int(static_cast<int64_t>(sequences.size()));
  args->max_rows = 0;
  args->max_keys = 0;
  for (const SoftmaxSequence& sequence : sequences) {
    args->max_rows = std::max(args->max_rows, sequence.num_rows);
    args->max_keys = std::max(args->max_keys, sequence.num_keys());
  }
  // Whole segments, so that the launch is the same until a sequence begins the next.
  args->max_keys = NumSegments(args->max_keys) * kSegmentKeys;
}

}  // namespace

absl::Status CudaKernelBackend::Rotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                                       TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRotary(x, cos, sin, out));
  M1_RETURN_IF_ERROR(NeedBf16("rotary: out", out));
  const RotaryArgs<Bf16> args{.x = Floats(x),
                              .cos = Floats(cos),
                              .sin = Floats(sin),
                              .out = Bf16s(out),
                              .rows = Int(x.dim(0)),
                              .heads = Int(x.dim(1)),
                              .head_dim = Int(x.dim(2)),
                              .half = Int(cos.dim(1))};
  return ToStatus(LaunchRotary(args, queue_.target()), "rotary");
}

absl::Status CudaKernelBackend::AppendKv(ConstTensorView k, ConstTensorView v,
                                         std::span<const PagedSequence> sequences,
                                         const KvPool& pool) {
  M1_RETURN_IF_ERROR(ValidateAppendKv(k, v, sequences, pool));
  M1_RETURN_IF_ERROR(NeedBf16("append_kv: k", k));
  if (k.num_elements() == 0) return absl::OkStatus();
  const std::vector<KvPlace> places = PlacesOf(sequences, k.dim(0));
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(std::span<const KvPlace>(places)));
  const AppendKvArgs<Bf16> args{.k = Bf16s(k),
                                .v = Bf16s(v),
                                .places = std::get<0>(sent),
                                .pool_k = Bf16s(pool.k),
                                .pool_v = Bf16s(pool.v),
                                .rows = Int(k.dim(0)),
                                .kv_heads = Int(k.dim(1)),
                                .head_dim = Int(k.dim(2)),
                                .block_tokens = Int(kKvBlockTokens)};
  return ToStatus(LaunchAppendKv(args, queue_.target()), "append_kv");
}

absl::Status CudaKernelBackend::SoftmaxAttention(ConstTensorView q,
                                                 std::span<const PagedSequence> sequences,
                                                 const KvPool& pool, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSoftmaxAttention(q, sequences, pool, out));
  M1_RETURN_IF_ERROR(NeedBf16("softmax_attention: q", q));
  if (!IsSoftmaxHeadDim(Int(q.dim(2)))) {
    return absl::UnimplementedError(
        absl::StrCat("softmax_attention: heads of ", q.dim(2), ", a GPU takes 32, 64 or 128"));
  }
  if (q.num_elements() == 0) return absl::OkStatus();
  const std::vector<int32_t> tables = TablesOf(sequences);
  M1_RETURN_IF_ERROR(
      queue_.Reserve(DeviceQueue::Padded(tables.size() * sizeof(int32_t)) +
                     2 * DeviceQueue::Padded(sequences.size() * sizeof(SoftmaxSequence))));
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(std::span<const int32_t>(tables)));
  const SoftmaxSplit split = Split(sequences, std::get<0>(sent), Int(q.dim(1) / pool.k.dim(1)));
  SoftmaxArgs args{};
  args.q = Bf16s(q);
  args.pool_k = Bf16s(pool.k);
  args.pool_v = Bf16s(pool.v);
  args.out = Bf16s(out);
  args.scale = 1.0f / std::sqrt(static_cast<float>(q.dim(2)));
  args.heads = Int(q.dim(1));
  args.kv_heads = Int(pool.k.dim(1));
  args.head_dim = Int(q.dim(2));
  M1_ASSIGN_OR_RETURN(const auto parts, queue_.Put(std::span<const SoftmaxSequence>(split.few),
                                                   std::span<const SoftmaxSequence>(split.many)));
  if (!split.few.empty()) {
    const auto bytes = SoftmaxScratchBytes(split.slots, args.heads, args.head_dim);
    M1_ASSIGN_OR_RETURN(void* const scratch, queue_.Scratch(static_cast<size_t>(bytes)));
    args.partials = SoftmaxPartialsIn(static_cast<float*>(scratch), split.slots, args.heads);
    SetSequences(split.few, std::get<0>(parts), &args);
    M1_RETURN_IF_ERROR(ToStatus(LaunchSoftmaxFew(args, queue_.target()), "softmax_attention"));
  }
  if (split.many.empty()) return absl::OkStatus();
  SetSequences(split.many, std::get<1>(parts), &args);
  return ToStatus(LaunchSoftmaxMany(args, queue_.target()), "softmax_attention");
}

absl::Status CudaKernelBackend::LightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                                   std::span<const LightningSequence> sequences,
                                                   TensorView out) {
  M1_RETURN_IF_ERROR(ValidateLightningAttention(qkv, decays, sequences, out));
  M1_RETURN_IF_ERROR(NeedBf16("lightning_attention: qkv", qkv));
  if (!TakesLightningHeadDim(Int(qkv.dim(3)))) {
    return absl::UnimplementedError(absl::StrCat("lightning_attention: heads of ", qkv.dim(3),
                                                 ", a GPU takes multiples of ", kWarpLanes,
                                                 " up to ", kMaxLightningHeadDim));
  }
  bool is_decode = true;
  std::vector<LightningMemory<Bf16>> memories;
  for (const LightningSequence& sequence : sequences) {
    is_decode = is_decode && sequence.rows.num_rows <= 1;
    memories.push_back({.first_position = sequence.rows.first_position,
                        .row_begin = Int(sequence.rows.row_begin),
                        .num_rows = Int(sequence.rows.num_rows),
                        .state = Floats(sequence.state),
                        .open_k = Bf16s(sequence.open_k),
                        .open_v = Bf16s(sequence.open_v)});
  }
  if (memories.empty() || out.num_elements() == 0) return absl::OkStatus();
  M1_ASSIGN_OR_RETURN(const auto sent,
                      queue_.Put(std::span<const LightningMemory<Bf16>>(memories)));
  const LightningArgs<Bf16> args{.qkv = Bf16s(qkv),
                                 .decays = Floats(decays),
                                 .sequences = std::get<0>(sent),
                                 .out = Floats(out),
                                 .num_sequences = Int(static_cast<int64_t>(memories.size())),
                                 .heads = Int(qkv.dim(1)),
                                 .head_dim = Int(qkv.dim(3))};
  return ToStatus(LaunchLightning(args, is_decode ? LightningRows::kDecode : LightningRows::kPrompt,
                                  queue_.target()),
                  "lightning_attention");
}

}  // namespace m1::cuda
