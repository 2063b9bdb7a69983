// What the suites of the quantised form share: integer matrices, rows as integers, and the products
// as plain loops in the GPU's order.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/kernels/cuda/quant_args.h"
#include "common/kernels/cuda/quant_rows_kernel.h"
#include "common/kernels/reference/quantized_dot.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"

namespace m1::cuda {

// int8 (group 0), or int4 in groups of 32 or 64.
class IntMatrix {
 public:
  IntMatrix(RandomTensors& random, int64_t group, int64_t n, int64_t k)
      : values_(group == 0 ? DType::kI8 : DType::kU8, {n, group == 0 ? k : k / 2}),
        scales_(group == 0 ? Tensor(DType::kF32, {n}) : Tensor(DType::kBf16, {n, k / group})) {
    for (int64_t i = 0; i < values_.view().num_elements(); ++i) {
      if (group == 0) {
        values_.data_as<int8_t>()[i] = static_cast<int8_t>(random.Integer(-127, 127));
      } else {
        values_.data_as<uint8_t>()[i] = static_cast<uint8_t>(random.Integer(0, 255));
      }
    }
    for (int64_t i = 0; i < scales_.view().num_elements(); ++i) {
      SetScale(i, static_cast<float>(random.Integer(-1000, 1000)) * 1e-4f);
    }
  }

  MatrixView view() const { return {values_.view(), scales_.view()}; }
  QuantMatrix device() const { return {values_.view().data(), scales_.view().data()}; }
  Tensor& values() { return values_; }
  void SetScale(int64_t i, float scale) { StoreAct(scales_.view(), i, scale); }

  void AddTo(SimulatedMemory& memory) const {
    AddBytes(memory, values_);
    AddBytes(memory, scales_);
  }

 private:
  static void AddBytes(SimulatedMemory& memory, const Tensor& tensor) {
    const ConstTensorView view = tensor.view();
    memory.AddInput(std::span<const unsigned char>(static_cast<const unsigned char*>(view.data()),
                                                   static_cast<size_t>(view.num_bytes())));
  }

  Tensor values_;
  Tensor scales_;
};

// Rows as the products take them.
struct IntRows {
  std::vector<int8_t> values;  // [rows, k]
  std::vector<float> scales;   // [rows]

  void AddTo(SimulatedMemory& memory) const {
    memory.AddInput(std::span<const int8_t>(values));
    memory.AddInput(std::span<const float>(scales));
  }
};

inline QuantOrder OrderFor(int64_t group) {
  return group == 0 ? QuantOrder::kPlain : QuantOrder::kEvenOdd;
}

inline std::vector<QuantizedRow> PlainRows(ConstTensorView x) {
  const ScopedFlushDenormals flush;
  std::vector<QuantizedRow> rows;
  for (int64_t r = 0; r < x.dim(0); ++r) rows.push_back(QuantizeRow(x, r * x.dim(1), x.dim(1)));
  return rows;
}

// The plain loops' rows; kEvenOdd: of each 32 elements the even ones, then the odd ones.
inline IntRows RowsInOrder(const std::vector<QuantizedRow>& rows, QuantOrder order) {
  IntRows out;
  for (const QuantizedRow& row : rows) {
    out.scales.push_back(row.scale);
    for (size_t begin = 0; begin < row.values.size(); begin += 32) {
      const size_t end = std::min(begin + 32, row.values.size());
      const size_t step = order == QuantOrder::kPlain ? 1 : 2;
      for (size_t first = begin; first < begin + step; ++first) {
        for (size_t i = first; i < end; i += step) out.values.push_back(row.values[i]);
      }
    }
  }
  return out;
}

// The kernel's rows. Every integer and scale is written once.
template <typename Act>
IntRows QuantizeInSimulator(ConstTensorView x, QuantOrder order) {
  const auto rows = static_cast<size_t>(x.dim(0));
  const auto k = static_cast<size_t>(x.dim(1));
  IntRows out{std::vector<int8_t>(rows * k, 99), std::vector<float>(rows, 99.0f)};
  SimulatedMemory memory;
  memory.AddInput(std::span<const Act>(x.data_as<Act>(), rows * k));
  memory.AddOutput(std::span<int8_t>(out.values));
  memory.AddOutput(std::span<float>(out.scales));
  const QuantizeRowsArgs<Act> args{.x = x.data_as<Act>(),
                                   .values = out.values.data(),
                                   .scales = out.scales.data(),
                                   .k = static_cast<int32_t>(k),
                                   .order = order};
  RunClean(QuantizeRowsGrid(static_cast<int>(rows)), memory,
           [&](SimulatedThread& thread) { QuantizeRowsKernel<Act>(thread, args); });
  ExpectWritten(memory, std::span<const int8_t>(out.values), 1);
  ExpectWritten(memory, std::span<const float>(out.scales), 1);
  return out;
}

inline int32_t Int4At(const MatrixView& w, int64_t row, int64_t column) {
  const uint8_t byte = w.values.data_as<uint8_t>()[row * w.values.dim(1) + column / 2];
  return (column % 2 == 0 ? byte & 0xf : byte >> 4) - 8;
}

// int8: the plain loops' product. int4: the exact sum of each group times its scale, groups
// ascending in one accumulator, then the row's scale.
inline float ModelDot(const QuantizedRow& x, const MatrixView& w, int64_t row) {
  if (w.format() == MatrixFormat::kInt8) return QuantizedDot(x, w, row);
  float sum = 0.0f;
  for (int64_t group = 0; group < w.scales.dim(1); ++group) {
    int32_t integer = 0;
    for (int64_t k = group * w.group_size(); k < (group + 1) * w.group_size(); ++k) {
      integer += x.values[static_cast<size_t>(k)] * Int4At(w, row, k);
    }
    const float scale = Bf16ToFloat(w.scales.data_as<Bf16>()[row * w.scales.dim(1) + group]);
    sum = std::fma(static_cast<float>(integer), scale, sum);
  }
  return sum * x.scale;
}

// What a product gives for one element.
inline float ModelElement(const QuantizedRow& x, const MatrixView& w,
                          const std::optional<MatrixView>& up, ProductEpilogue epilogue,
                          int64_t feature) {
  const float value = ModelDot(x, w, feature);
  if (up.has_value()) return ExactSilu(value) * ModelDot(x, *up, feature);
  return epilogue == ProductEpilogue::kSilu ? ExactSilu(value) : value;
}

}  // namespace m1::cuda
