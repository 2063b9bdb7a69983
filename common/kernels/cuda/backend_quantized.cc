#include <vector>

#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/cuda/group_parts.h"

namespace m1::cuda {
namespace {

// 0: int8.
int32_t GroupSize(const MatrixView& w) {
  return w.format() == MatrixFormat::kInt4 ? Int(w.group_size()) : 0;
}

absl::Status CheckQuantized(absl::string_view what, const MatrixView& w, const MatrixView& like) {
  if (!TakesQuantK(GroupSize(w), Int(w.dim(1)))) {
    return absl::UnimplementedError(absl::StrCat(
        what, " has shape ", w.shape().ToString(),
        ", a GPU takes multiples of 16 columns of int8, and of a group of 32 or 64 of int4"));
  }
  if (GroupSize(w) == GroupSize(like)) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(what, " has groups of ", GroupSize(w), " beside ",
                                               GroupSize(like), ", a GPU takes one size"));
}

QuantMatrix MatrixOf(const MatrixView& w) { return {w.values.data(), w.scales.data()}; }

}  // namespace

absl::StatusOr<QuantProductArgs> CudaKernelBackend::QuantizeRows(ConstTensorView x,
                                                                 const MatrixView& w) {
  const int64_t rows = x.dim(0);
  const int64_t k = x.dim(1);
  M1_ASSIGN_OR_RETURN(void* const scratch,
                      queue_.Scratch(static_cast<size_t>(QuantRowsBytes(rows, k))));
  QuantProductArgs args;
  auto* const values = static_cast<int8_t*>(scratch);
  auto* const scales = reinterpret_cast<float*>(values + rows * k);
  args.x = values;
  args.x_scales = scales;
  args.k = Int(k);
  args.group_size = GroupSize(w);
  const QuantOrder order = args.group_size == 0 ? QuantOrder::kPlain : QuantOrder::kEvenOdd;
  const LaunchError error =
      x.dtype() == DType::kF32
          ? LaunchQuantizeRows(QuantizeRowsArgs<float>{Floats(x), values, scales, args.k, order},
                               Int(rows), queue_.target())
          : LaunchQuantizeRows(QuantizeRowsArgs<Bf16>{Bf16s(x), values, scales, args.k, order},
                               Int(rows), queue_.target());
  M1_RETURN_IF_ERROR(ToStatus(error, "quantize rows"));
  return args;
}

absl::Status CudaKernelBackend::QuantizedLinears(ConstTensorView x,
                                                 std::span<const LinearProduct> products) {
  if (products.empty() || x.num_elements() == 0) return absl::OkStatus();
  for (const LinearProduct& product : products) {
    M1_RETURN_IF_ERROR(CheckQuantized("linear: w", product.w, products[0].w));
  }
  M1_ASSIGN_OR_RETURN(const QuantProductArgs rows, QuantizeRows(x, products[0].w));
  for (const DType out : {DType::kF32, DType::kBf16}) {
    const std::vector<LinearProduct> chosen = WithOutput(products, out);
    M1_RETURN_IF_ERROR(ForParts(std::span<const LinearProduct>(chosen), [&](auto part) {
      QuantProductArgs args = rows;
      for (const LinearProduct& product : part) {
        args.groups[args.num_groups++] = {.w = MatrixOf(product.w),
                                          .out = product.out.data(),
                                          .n = Int(product.w.dim(0)),
                                          .num_rows = Int(x.dim(0)),
                                          .epilogue = EpilogueOf(product.epilogue)};
      }
      return ToStatus(LaunchQuantLinear(args, OutTypeOf(out), queue_.target()), "linear");
    }));
  }
  return absl::OkStatus();
}

absl::Status CudaKernelBackend::QuantizedGatedUp(ConstTensorView x, const MatrixView& gate,
                                                 const MatrixView& up, TensorView out) {
  M1_RETURN_IF_ERROR(CheckQuantized("gated_up: gate", gate, gate));
  M1_RETURN_IF_ERROR(CheckQuantized("gated_up: up", up, gate));
  if (x.num_elements() == 0) return absl::OkStatus();
  M1_ASSIGN_OR_RETURN(QuantProductArgs args, QuantizeRows(x, gate));
  args.num_groups = 1;
  args.groups[0] = {.w = MatrixOf(gate),
                    .up = MatrixOf(up),
                    .out = out.data(),
                    .n = Int(gate.dim(0)),
                    .num_rows = Int(x.dim(0))};
  return ToStatus(LaunchQuantGatedUp(args, queue_.target()), "gated_up");
}

absl::Status CudaKernelBackend::QuantizedExpertFfn(ConstTensorView x,
                                                   std::span<const ExpertGroup> groups,
                                                   TensorView mid, TensorView out) {
  for (const ExpertGroup& group : groups) {
    M1_RETURN_IF_ERROR(CheckQuantized("expert_ffn: w1", group.w1, groups[0].w1));
    M1_RETURN_IF_ERROR(CheckQuantized("expert_ffn: w3", group.w3, groups[0].w1));
    M1_RETURN_IF_ERROR(CheckQuantized("expert_ffn: w2", group.w2, groups[0].w2));
  }
  if (x.num_elements() == 0) return absl::OkStatus();
  M1_ASSIGN_OR_RETURN(const QuantProductArgs x_rows, QuantizeRows(x, groups[0].w1));
  M1_RETURN_IF_ERROR(ForParts(groups, [&](std::span<const ExpertGroup> part) {
    QuantProductArgs args = x_rows;
    for (const ExpertGroup& group : part) {
      args.groups[args.num_groups++] = {.w = MatrixOf(group.w1),
                                        .up = MatrixOf(group.w3),
                                        .out = mid.data(),
                                        .n = Int(mid.dim(1)),
                                        .row_begin = Int(group.row_begin),
                                        .num_rows = Int(group.num_rows)};
    }
    return ToStatus(LaunchQuantGatedUp(args, queue_.target()), "expert_ffn");
  }));
  M1_ASSIGN_OR_RETURN(const QuantProductArgs mid_rows, QuantizeRows(mid, groups[0].w2));
  return ForParts(groups, [&](std::span<const ExpertGroup> part) {
    QuantProductArgs args = mid_rows;
    for (const ExpertGroup& group : part) {
      args.groups[args.num_groups++] = {.w = MatrixOf(group.w2),
                                        .out = out.data(),
                                        .n = Int(out.dim(1)),
                                        .row_begin = Int(group.row_begin),
                                        .num_rows = Int(group.num_rows)};
    }
    return ToStatus(LaunchQuantLinear(args, OutType::kBf16, queue_.target()), "expert_ffn");
  });
}

}  // namespace m1::cuda
