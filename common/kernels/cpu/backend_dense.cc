#include <algorithm>

#include "common/base/status_macros.h"
#include "common/kernels/cpu/cpu_kernel_backend.h"
#include "common/kernels/cpu/views.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/reference/dense_ops.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

// Parts of a product that each thread should get, and the least rows worth a part of their own.
constexpr int64_t kPartsPerThread = 4;
constexpr int64_t kMinPartRows = 16;
constexpr int64_t kLanes = 16;

constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

template <typename Args>
void CpuKernelBackend::RunElements(void (*kernel)(const Args&, Range), const Args& args,
                                   int64_t num_elements) {
  pool_.ParallelFor(DivideUp(num_elements, kLanes), kMinPassElements / kLanes,
                    [&](int64_t begin, int64_t end) {
                      kernel(args, {begin * kLanes, std::min(end * kLanes, num_elements)});
                    });
}

template <typename Args>
void CpuKernelBackend::RunProducts(void (*kernel)(const Args&, Range, Range),
                                   std::span<const Product<Args>> products) {
  const int64_t tile = kernels_.column_tile;
  const auto tiles_of = [&](const Product<Args>& product) {
    return product.num_rows > 0 ? DivideUp(product.args.n, tile) : 0;
  };
  int64_t num_tiles = 0;
  int64_t terms = 0;
  for (const Product<Args>& product : products) {
    num_tiles += tiles_of(product);
    terms += product.num_rows * product.args.n * product.args.k;
  }
  if (num_tiles == 0) return;
  const int64_t wanted_parts = pool_.num_threads() * kPartsPerThread;
  const int64_t row_split = pool_.num_threads() == 1 ? 1 : DivideUp(wanted_parts, num_tiles);
  // Rows [.., + part_rows) under one column tile are an item; a product's items run along its
  // columns first.
  const auto part_rows_of = [&](const Product<Args>& product) {
    return std::max(kMinPartRows, DivideUp(product.num_rows, row_split));
  };
  const auto items_of = [&](const Product<Args>& product) {
    return tiles_of(product) * DivideUp(product.num_rows, part_rows_of(product));
  };
  int64_t num_items = 0;
  for (const Product<Args>& product : products) num_items += items_of(product);

  const auto run = [&](int64_t begin, int64_t end) {
    for (const Product<Args>& product : products) {
      const int64_t items = items_of(product);
      const int64_t tiles = tiles_of(product);
      const int64_t part_rows = part_rows_of(product);
      for (int64_t item = std::max<int64_t>(begin, 0); item < std::min(end, items);) {
        const int64_t part = item / tiles;
        const int64_t stop = std::min(end, (part + 1) * tiles);
        const Range rows{part * part_rows, std::min((part + 1) * part_rows, product.num_rows)};
        const Range columns{(item - part * tiles) * tile,
                            std::min((stop - part * tiles) * tile, product.args.n)};
        kernel(product.args, rows, columns);
        item = stop;
      }
      begin -= items;
      end -= items;
      if (end <= 0) return;
    }
  };
  pool_.ParallelFor(num_items, kMinPartTerms / std::max<int64_t>(terms / num_items, 1), run);
}

// For backend_quantized.cc.
template void CpuKernelBackend::RunProducts(void (*)(const QuantizedLinearArgs&, Range, Range),
                                            std::span<const Product<QuantizedLinearArgs>>);
template void CpuKernelBackend::RunProducts(void (*)(const QuantizedGatedUpArgs&, Range, Range),
                                            std::span<const Product<QuantizedGatedUpArgs>>);

absl::Status CpuKernelBackend::Embed(std::span<const int32_t> ids, ConstTensorView table,
                                     TensorView out) {
  M1_RETURN_IF_ERROR(ValidateEmbed(ids, table, out));
  const ScopedFlushDenormals flush;
  const EmbedArgs args{ids.data(), ToActIn(table), ToFloats(out), table.dim(1)};
  RunRows(kernels_.embed, args, out.dim(0), args.n);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                                       TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRmsNorm(x, weight, out));
  const ScopedFlushDenormals flush;
  const RmsNormArgs args{ToFloats(x), ToActIn(weight), eps, ToFloats(out), x.dim(1)};
  RunRows(kernels_.rms_norm, args, x.dim(0), args.n);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::Round(ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRound(x, out));
  const ScopedFlushDenormals flush;
  RunElements(kernels_.round, RoundArgs{ToFloats(x), ToActOut(out)}, x.num_elements());
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::Linears(ConstTensorView x, std::span<const LinearProduct> products) {
  for (const LinearProduct& product : products) {
    M1_RETURN_IF_ERROR(ValidateLinear(x, product.w, product.out));
  }
  const ScopedFlushDenormals flush;
  std::vector<Product<LinearArgs>> floats;
  std::vector<LinearProduct> integers;
  for (const LinearProduct& product : products) {
    if (product.w.is_quantized()) {
      integers.push_back(product);
      continue;
    }
    floats.push_back({{.x = ToActIn(x),
                       .w = ToActIn(product.w.values),
                       .silu = product.epilogue == Epilogue::kSilu,
                       .out = ToActOut(product.out),
                       .k = x.dim(1),
                       .n = product.w.dim(0)},
                      x.dim(0)});
  }
  RunProducts<LinearArgs>(kernels_.linear, floats);
  QuantizedLinears(x, integers);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::GatedUp(ConstTensorView x, const MatrixView& gate,
                                       const MatrixView& up, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateGatedUp(x, gate, up, out));
  const ScopedFlushDenormals flush;
  if (gate.is_quantized()) {
    QuantizedGatedUp(x, gate, up, out);
    return absl::OkStatus();
  }
  const Product<GatedUpArgs> product{{.x = ToActIn(x),
                                      .gate = ToActIn(gate.values),
                                      .up = ToActIn(up.values),
                                      .out = ToActOut(out),
                                      .k = x.dim(1),
                                      .n = gate.dim(0)},
                                     x.dim(0)};
  RunProducts<GatedUpArgs>(kernels_.gated_up, {&product, 1});
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                                         TensorView mid, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateExpertFfn(x, groups, mid, out));
  const ScopedFlushDenormals flush;
  if (!groups.empty() && groups[0].w1.is_quantized()) {
    QuantizedExpertFfn(x, groups, mid, out);
    return absl::OkStatus();
  }
  std::vector<Product<GatedUpArgs>> gated_up;
  std::vector<Product<LinearArgs>> down;
  for (const ExpertGroup& group : groups) {
    const auto rows_of = [&](auto view) { return view.Rows(group.row_begin, group.num_rows); };
    gated_up.push_back({{.x = ToActIn(rows_of(x)),
                         .gate = ToActIn(group.w1.values),
                         .up = ToActIn(group.w3.values),
                         .out = ToActOut(rows_of(mid)),
                         .k = x.dim(1),
                         .n = mid.dim(1)},
                        group.num_rows});
    down.push_back({{.x = ToActIn(rows_of(mid)),
                     .w = ToActIn(group.w2.values),
                     .silu = false,
                     .out = ToActOut(rows_of(out)),
                     .k = mid.dim(1),
                     .n = out.dim(1)},
                    group.num_rows});
  }
  RunProducts<GatedUpArgs>(kernels_.gated_up, gated_up);
  RunProducts<LinearArgs>(kernels_.linear, down);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::ScaledAdd(float alpha, ConstTensorView x, float beta,
                                         ConstTensorView y, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateScaledAdd(x, y, out));
  const ScopedFlushDenormals flush;
  const ScaledAddArgs args{alpha, ToFloats(x), beta, ToFloats(y), ToFloats(out)};
  RunElements(kernels_.scaled_add, args, x.num_elements());
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::SigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSigmoidMul(gate, x, out));
  const ScopedFlushDenormals flush;
  RunElements(kernels_.sigmoid_mul, SigmoidMulArgs{ToFloats(gate), ToFloats(x), ToActOut(out)},
              x.num_elements());
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::TopKGate(ConstTensorView logits, TensorView ids,
                                        TensorView weights) {
  M1_RETURN_IF_ERROR(ValidateTopKGate(logits, ids, weights));
  const ScopedFlushDenormals flush;
  if (logits.dim(1) > kMaxGateExperts) {
    ReferenceTopKGate(logits, ids, weights);
    return absl::OkStatus();
  }
  const TopKGateArgs args{ToFloats(logits), logits.dim(1), ids.dim(1), ids.data_as<int32_t>(),
                          ToFloats(weights)};
  RunRows(kernels_.top_k_gate, args, logits.dim(0), args.experts);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::CombineExperts(ConstTensorView y, ConstTensorView weights,
                                              TensorView out) {
  M1_RETURN_IF_ERROR(ValidateCombineExperts(y, weights, out));
  const ScopedFlushDenormals flush;
  const CombineExpertsArgs args{ToActIn(y), ToFloats(weights), y.dim(1), ToFloats(out), y.dim(2)};
  RunRows(kernels_.combine_experts, args, y.dim(0), args.k * args.n);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                                               ConstTensorView coefficient_logit, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSharedExpertMix(moe, shared, coefficient_logit, out));
  const ScopedFlushDenormals flush;
  const SharedExpertMixArgs args{ToFloats(moe), ToFloats(shared), ToFloats(coefficient_logit),
                                 ToFloats(out), moe.dim(1)};
  RunRows(kernels_.shared_expert_mix, args, moe.dim(0), args.n);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::LogSumExp(ConstTensorView logits,
                                         std::span<const float> temperatures,
                                         std::span<float> lse) {
  M1_RETURN_IF_ERROR(ValidateLogSumExp(logits, temperatures, lse));
  const ScopedFlushDenormals flush;
  const LogSumExpArgs args{ToFloats(logits), temperatures.data(), lse.data(), logits.dim(1)};
  RunRows(kernels_.log_sum_exp, args, logits.dim(0), args.vocab);
  return absl::OkStatus();
}

}  // namespace m1
