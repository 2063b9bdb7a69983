#include <algorithm>
#include <cstddef>

#include "common/kernels/cpu/cpu_kernel_backend.h"
#include "common/kernels/cpu/views.h"

namespace m1 {
namespace {

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

QuantizedMatrix ToMatrix(const MatrixView& matrix) {
  // Without elements no group says how large it is, and none is read.
  const int64_t group = std::max<int64_t>(matrix.group_size(), 32);
  return {matrix.values.data(), matrix.scales.data(),
          matrix.format() == MatrixFormat::kInt4 ? group : 0};
}

QuantizedRows RowsFrom(const QuantizedRows& rows, int64_t begin) {
  return {.values = rows.values + begin * rows.stride,
          .quads = rows.quads == nullptr ? nullptr : rows.quads + begin * (rows.stride / 4),
          .sums = rows.sums + begin,
          .scales = rows.scales + begin,
          .stride = rows.stride};
}

// The rows that some group has.
Range RowsOf(std::span<const ExpertGroup> groups) {
  Range rows{0, 0};
  bool first = true;
  for (const ExpertGroup& group : groups) {
    if (group.num_rows == 0) continue;
    const int64_t end = group.row_begin + group.num_rows;
    rows = first ? Range{group.row_begin, end}
                 : Range{std::min(rows.begin, group.row_begin), std::max(rows.end, end)};
    first = false;
  }
  return rows;
}

}  // namespace

QuantizedRows CpuKernelBackend::QuantizeRows(ConstTensorView x, Range rows, MatrixFormat format) {
  const int64_t k = x.dim(1);
  const int64_t num_rows = rows.end - rows.begin;
  const int64_t stride = RoundUp(k, kQuantizedStep);
  const int64_t values_bytes = num_rows * stride;
  const bool with_quads = format == MatrixFormat::kInt4;
  // values, quads, sums, scales, one after the other.
  const int64_t bytes = values_bytes * (with_quads ? 2 : 1) + num_rows * 8;
  if (quantized_rows_.shape().rank() == 0 || quantized_rows_.shape()[0] < bytes) {
    quantized_rows_ = Tensor(DType::kI8, {bytes});
  }
  auto* const begin = quantized_rows_.data_as<int8_t>();
  int8_t* const numbers = begin + values_bytes * (with_quads ? 2 : 1);
  const QuantizedRows out{
      .values = begin,
      .quads = with_quads ? reinterpret_cast<int32_t*>(begin + values_bytes) : nullptr,
      .sums = reinterpret_cast<int32_t*>(numbers),
      .scales = reinterpret_cast<float*>(numbers + num_rows * 4),
      .stride = stride};
  RunRows(kernels_.quantize_rows, QuantizeRowsArgs{ToActIn(x.Rows(rows.begin, num_rows)), out, k},
          num_rows, k);
  return out;
}

void CpuKernelBackend::QuantizedLinears(ConstTensorView x,
                                        std::span<const LinearProduct> products) {
  // The integers of x serve all matrices of one format.
  for (const MatrixFormat format : {MatrixFormat::kInt8, MatrixFormat::kInt4}) {
    std::vector<Product<QuantizedLinearArgs>> same;
    for (const LinearProduct& product : products) {
      if (product.w.format() != format) continue;
      same.push_back({{.x = {},
                       .w = ToMatrix(product.w),
                       .silu = product.epilogue == Epilogue::kSilu,
                       .out = ToActOut(product.out),
                       .k = x.dim(1),
                       .n = product.w.dim(0)},
                      x.dim(0)});
    }
    if (same.empty()) continue;
    const QuantizedRows rows = QuantizeRows(x, {0, x.dim(0)}, format);
    for (Product<QuantizedLinearArgs>& product : same) product.args.x = rows;
    RunProducts<QuantizedLinearArgs>(kernels_.quantized_linear, same);
  }
}

void CpuKernelBackend::QuantizedGatedUp(ConstTensorView x, const MatrixView& gate,
                                        const MatrixView& up, TensorView out) {
  const Product<QuantizedGatedUpArgs> product{{.x = QuantizeRows(x, {0, x.dim(0)}, gate.format()),
                                               .gate = ToMatrix(gate),
                                               .up = ToMatrix(up),
                                               .out = ToActOut(out),
                                               .k = x.dim(1),
                                               .n = gate.dim(0)},
                                              x.dim(0)};
  RunProducts<QuantizedGatedUpArgs>(kernels_.quantized_gated_up, {&product, 1});
}

void CpuKernelBackend::QuantizedExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                                          TensorView mid, TensorView out) {
  const Range used = RowsOf(groups);
  const MatrixFormat format = groups[0].w1.format();
  const QuantizedRows x_rows = QuantizeRows(x, used, format);
  std::vector<Product<QuantizedGatedUpArgs>> gated_up;
  for (const ExpertGroup& group : groups) {
    if (group.num_rows == 0) continue;
    gated_up.push_back({{.x = RowsFrom(x_rows, group.row_begin - used.begin),
                         .gate = ToMatrix(group.w1),
                         .up = ToMatrix(group.w3),
                         .out = ToActOut(mid.Rows(group.row_begin, group.num_rows)),
                         .k = x.dim(1),
                         .n = mid.dim(1)},
                        group.num_rows});
  }
  RunProducts<QuantizedGatedUpArgs>(kernels_.quantized_gated_up, gated_up);
  const QuantizedRows mid_rows = QuantizeRows(mid, used, format);  // over those of x
  std::vector<Product<QuantizedLinearArgs>> down;
  for (const ExpertGroup& group : groups) {
    if (group.num_rows == 0) continue;
    down.push_back({{.x = RowsFrom(mid_rows, group.row_begin - used.begin),
                     .w = ToMatrix(group.w2),
                     .silu = false,
                     .out = ToActOut(out.Rows(group.row_begin, group.num_rows)),
                     .k = mid.dim(1),
                     .n = out.dim(1)},
                    group.num_rows});
  }
  RunProducts<QuantizedLinearArgs>(kernels_.quantized_linear, down);
}

}  // namespace m1
