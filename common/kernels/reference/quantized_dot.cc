#include "common/kernels/reference/quantized_dot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace m1 {
namespace {

constexpr float kSmallestMaximum = 0x1p-100f;
constexpr int64_t kStep = 64;
constexpr int64_t kElementsPerLane = 4;

int32_t Int4At(const MatrixView& w, int64_t row, int64_t column) {
  const uint8_t byte = w.values.data_as<uint8_t>()[row * w.values.dim(1) + column / 2];
  return (column % 2 == 0 ? byte & 0xf : byte >> 4) - 8;
}

float Int8Dot(const QuantizedRow& x, const MatrixView& w, int64_t row) {
  const auto k = static_cast<int64_t>(x.values.size());
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    sum += x.values[static_cast<size_t>(i)] * w.values.data_as<int8_t>()[row * k + i];
  }
  return static_cast<float>(sum) * (x.scale * w.scales.data_as<float>()[row]);
}

float Int4Dot(const QuantizedRow& x, const MatrixView& w, int64_t row) {
  const auto k = static_cast<int64_t>(x.values.size());
  std::array<float, 16> lanes{};
  for (int64_t begin = 0; begin < k; begin += kElementsPerLane) {
    int32_t sum = 0;
    for (int64_t i = begin; i < begin + kElementsPerLane; ++i) {
      sum += x.values[static_cast<size_t>(i)] * Int4At(w, row, i);
    }
    float& lane = lanes[static_cast<size_t>(begin % kStep / kElementsPerLane)];
    const int64_t group = begin / w.group_size();
    lane =
        std::fma(static_cast<float>(sum), LoadAct(w.scales, row * w.scales.dim(1) + group), lane);
  }
  return AddLanes(lanes) * x.scale;
}

}  // namespace

QuantizedRow QuantizeRow(ConstTensorView x, int64_t begin, int64_t n) {
  QuantizedRow row{std::vector<int8_t>(static_cast<size_t>(n)), 0.0f};
  float maximum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(LoadAct(x, begin + i));
    if (!std::isfinite(magnitude)) {
      row.scale = std::numeric_limits<float>::quiet_NaN();
      return row;
    }
    maximum = std::max(maximum, magnitude);
  }
  if (maximum < kSmallestMaximum) return row;
  const float factor = 127.0f / maximum;
  for (int64_t i = 0; i < n; ++i) {
    row.values[static_cast<size_t>(i)] =
        static_cast<int8_t>(std::nearbyint(LoadAct(x, begin + i) * factor));
  }
  row.scale = maximum / 127.0f;
  return row;
}

float QuantizedDot(const QuantizedRow& x, const MatrixView& w, int64_t row) {
  return w.format() == MatrixFormat::kInt8 ? Int8Dot(x, w, row) : Int4Dot(x, w, row);
}

}  // namespace m1
