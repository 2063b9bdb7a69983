#include <vector>

#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/cuda/group_parts.h"
#include "common/kernels/validate.h"

namespace m1::cuda {
namespace {

absl::Status CheckWeights(absl::string_view what, const MatrixView& w) {
  M1_RETURN_IF_ERROR(NeedBf16(what, w.values));
  if (w.dim(1) % kChunkElements == 0) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(what, " has shape ", w.shape().ToString(),
                                               ", a GPU takes multiples of ", kChunkElements,
                                               " columns"));
}

absl::Status CheckOutput(ConstTensorView x, ConstTensorView out) {
  if (x.dtype() == DType::kBf16 || out.dtype() == DType::kF32) return absl::OkStatus();
  return absl::UnimplementedError("linear: x is fp32 and out is bf16, which no GPU kernel does");
}

// Every product has all rows of x.
ProductArgs ArgsOf(ConstTensorView x, std::span<const LinearProduct> products) {
  ProductArgs args;
  args.k = Int(x.dim(1));
  for (const LinearProduct& product : products) {
    args.groups[args.num_groups++] = {.w = Bf16s(product.w.values),
                                      .out = product.out.data(),
                                      .n = Int(product.w.dim(0)),
                                      .num_rows = Int(x.dim(0)),
                                      .epilogue = EpilogueOf(product.epilogue)};
  }
  return args;
}

}  // namespace

absl::Status CudaKernelBackend::Linears(ConstTensorView x,
                                        std::span<const LinearProduct> products) {
  std::vector<LinearProduct> plain;
  std::vector<LinearProduct> floats;
  std::vector<LinearProduct> quantized;
  for (const LinearProduct& product : products) {
    M1_RETURN_IF_ERROR(ValidateLinear(x, product.w, product.out));
    M1_RETURN_IF_ERROR(CheckOutput(x, product.out));
    const bool is_float = product.w.values.dtype() == DType::kF32 && x.dtype() == DType::kF32;
    if (!product.w.is_quantized() && !is_float) {
      M1_RETURN_IF_ERROR(CheckWeights("linear: w", product.w));
    }
    (product.w.is_quantized() ? quantized : is_float ? floats : plain).push_back(product);
  }
  M1_RETURN_IF_ERROR(QuantizedLinears(x, quantized));
  M1_RETURN_IF_ERROR(MultiplyFloats(x, floats));
  if (plain.empty()) return absl::OkStatus();
  if (x.dtype() == DType::kF32) return MultiplySplit(x, plain);
  M1_RETURN_IF_ERROR(Multiply(x, plain, DType::kF32));
  return Multiply(x, plain, DType::kBf16);
}

absl::Status CudaKernelBackend::MultiplyFloats(ConstTensorView x,
                                               std::span<const LinearProduct> products) {
  for (const LinearProduct& product : products) {
    const DotArgs args{.x = Floats(x),
                       .w = Floats(product.w.values),
                       .out = Floats(product.out),
                       .rows = Int(x.dim(0)),
                       .n = Int(product.w.dim(0)),
                       .k = Int(x.dim(1)),
                       .epilogue = EpilogueOf(product.epilogue)};
    M1_RETURN_IF_ERROR(ToStatus(LaunchDot(args, queue_.target()), "linear"));
  }
  return absl::OkStatus();
}

absl::Status CudaKernelBackend::Multiply(ConstTensorView x, std::span<const LinearProduct> products,
                                         DType out) {
  const std::vector<LinearProduct> chosen = WithOutput(products, out);
  return ForParts(std::span<const LinearProduct>(chosen), [&](auto part) {
    ProductArgs args = ArgsOf(x, part);
    args.x = Bf16s(x);
    return ToStatus(LaunchLinear(args, OutTypeOf(out), queue_.target()), "linear");
  });
}

absl::Status CudaKernelBackend::MultiplySplit(ConstTensorView x,
                                              std::span<const LinearProduct> products) {
  constexpr int64_t kTerms = 3;
  const int64_t count = x.num_elements();
  M1_ASSIGN_OR_RETURN(void* const parts,
                      queue_.Scratch(static_cast<size_t>(kTerms * count) * sizeof(Bf16)));
  M1_RETURN_IF_ERROR(ToStatus(
      LaunchSplit({Floats(x), static_cast<Bf16*>(parts), count}, queue_.target()), "linear"));
  return ForParts(products, [&](auto part) {
    ProductArgs args = ArgsOf(x, part);
    args.x = static_cast<const Bf16*>(parts);
    args.part_stride = count;
    return ToStatus(LaunchSplitLinear(args, queue_.target()), "linear");
  });
}

absl::Status CudaKernelBackend::GatedUp(ConstTensorView x, const MatrixView& gate,
                                        const MatrixView& up, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateGatedUp(x, gate, up, out));
  M1_RETURN_IF_ERROR(NeedBf16("gated_up: x", x));
  if (gate.is_quantized()) return QuantizedGatedUp(x, gate, up, out);
  M1_RETURN_IF_ERROR(CheckWeights("gated_up: gate", gate));
  ProductArgs args;
  args.x = Bf16s(x);
  args.k = Int(x.dim(1));
  args.num_groups = 1;
  args.groups[0] = {.w = Bf16s(gate.values),
                    .up = Bf16s(up.values),
                    .out = out.data(),
                    .n = Int(gate.dim(0)),
                    .num_rows = Int(x.dim(0))};
  return ToStatus(LaunchGatedUp(args, queue_.target()), "gated_up");
}

absl::Status CudaKernelBackend::ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                                          TensorView mid, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateExpertFfn(x, groups, mid, out));
  M1_RETURN_IF_ERROR(NeedBf16("expert_ffn: x", x));
  // These launches hang on which experts the rows chose. Others, which come again, are not mixed
  // with them.
  M1_RETURN_IF_ERROR(queue_.Submit());
  M1_RETURN_IF_ERROR(LaunchExpertFfn(x, groups, mid, out));
  return queue_.Submit();
}

absl::Status CudaKernelBackend::LaunchExpertFfn(ConstTensorView x,
                                                std::span<const ExpertGroup> groups, TensorView mid,
                                                TensorView out) {
  if (!groups.empty() && groups[0].w1.is_quantized()) {
    return QuantizedExpertFfn(x, groups, mid, out);
  }
  for (const ExpertGroup& group : groups) {
    M1_RETURN_IF_ERROR(CheckWeights("expert_ffn: w1", group.w1));
    M1_RETURN_IF_ERROR(CheckWeights("expert_ffn: w2", group.w2));
  }
  return ForParts(groups, [&](std::span<const ExpertGroup> part) {
    ProductArgs gated;
    ProductArgs down;
    gated.x = Bf16s(x);
    gated.k = Int(x.dim(1));
    down.x = Bf16s(mid);
    down.k = Int(mid.dim(1));
    for (const ExpertGroup& group : part) {
      gated.groups[gated.num_groups++] = {.w = Bf16s(group.w1.values),
                                          .up = Bf16s(group.w3.values),
                                          .out = mid.data(),
                                          .n = down.k,
                                          .row_begin = Int(group.row_begin),
                                          .num_rows = Int(group.num_rows)};
      down.groups[down.num_groups++] = {.w = Bf16s(group.w2.values),
                                        .out = out.data(),
                                        .n = gated.k,
                                        .row_begin = Int(group.row_begin),
                                        .num_rows = Int(group.num_rows)};
    }
    M1_RETURN_IF_ERROR(ToStatus(LaunchGatedUp(gated, queue_.target()), "expert_ffn"));
    return ToStatus(LaunchLinear(down, OutType::kBf16, queue_.target()), "expert_ffn");
  });
}

}  // namespace m1::cuda
