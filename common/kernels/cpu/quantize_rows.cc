// Plain loops that the compiler turns into vectors: rows are short beside the matrices they meet.
#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffU;
constexpr uint32_t kInfinity = 0x7f800000U;
constexpr uint32_t kSmallest = 0x0d800000U;  // 2^-100
// Added to a small number it leaves the nearest integer, ties to even, in the lower bits.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
constexpr int32_t kRounderBits = 0x4b400000;

inline uint32_t BitsOfElement(const uint16_t* x) { return uint32_t{*x} << 16; }
inline uint32_t BitsOfElement(const float* x) {
  uint32_t bits;
  __builtin_memcpy(&bits, x, sizeof(bits));
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// The largest magnitude by its bits, which order numbers, then infinity, then NaN.
template <typename T>
uint32_t LargestMagnitude(const T* x, int64_t k) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < k; ++i) {
    const uint32_t magnitude = BitsOfElement(x + i) & kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

template <typename T>
void RoundAll(const T* x, int64_t k, float factor, int8_t* to) {
  for (int64_t i = 0; i < k; ++i) {
    const float rounded = FloatOf(BitsOfElement(x + i)) * factor + kRounder;
    int32_t bits;
    __builtin_memcpy(&bits, &rounded, sizeof(bits));
    to[i] = static_cast<int8_t>(bits - kRounderBits);
  }
}

// Returns the scale.
template <typename T>
float QuantizeRow(const T* x, int64_t k, int8_t* to) {
  const uint32_t largest = LargestMagnitude(x, k);
  if (largest < kSmallest || largest >= kInfinity) {
    for (int64_t i = 0; i < k; ++i) to[i] = 0;
    return largest < kSmallest ? 0.0f : __builtin_nanf("");
  }
  RoundAll(x, k, 127.0f / FloatOf(largest), to);
  return FloatOf(largest) / 127.0f;
}

}  // namespace

void QuantizeRows(const QuantizeRowsArgs& args, Range rows) {
  const QuantizedRows& out = args.out;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    int8_t* to = out.values + row * out.stride;
    WithElements(args.x, row * args.k,
                 [&](auto* x) { out.scales[row] = QuantizeRow(x, args.k, to); });
    for (int64_t i = args.k; i < out.stride; ++i) to[i] = 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < out.stride; ++i) sum += to[i];
    out.sums[row] = sum;
    if (out.quads == nullptr) continue;
    int32_t* quads = out.quads + row * (out.stride / 4);
    for (int64_t i = 0; i < out.stride / 4; ++i) {
      quads[i] = -8 * (to[4 * i] + to[4 * i + 1] + to[4 * i + 2] + to[4 * i + 3]);
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
