#include "common/kernels/cpu/self_test.h"

#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

constexpr int64_t kRandomLanes = 100'000;

inline F32x16 Apply(ExactFunction function, F32x16 x) {
  switch (function) {
    case ExactFunction::kExp:
      return Exp(x);
    case ExactFunction::kLog:
      return Log(x);
    case ExactFunction::kSigmoid:
      return Sigmoid(x);
    case ExactFunction::kSilu:
      return Silu(x);
  }
  return x;
}

// xorshift64*
struct Random {
  uint64_t state = 0x9e3779b97f4a7c15U;
  uint32_t Next() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<uint32_t>((state * 0x2545f4914f6cdd1dU) >> 32);
  }
};

// A bf16 number: half of them near 1, where sums round; the rest any bits, and now and then zero,
// subnormal or infinite.
uint16_t RandomBf16(Random& random) {
  const uint32_t bits = random.Next();
  const uint32_t sign = bits & 0x8000U;
  switch ((bits >> 16) % 32) {
    case 0:
      return static_cast<uint16_t>(sign);
    case 1:
      return static_cast<uint16_t>(sign | (bits & 0x7fU));
    case 2:
      return static_cast<uint16_t>(sign | 0x7f80U);
    default:
      return static_cast<uint16_t>((bits >> 31) != 0 ? bits : sign | (0x3e00U + (bits & 0x3ffU)));
  }
}

}  // namespace

void ExactFunctionOf(ExactFunction function, const float* x, float* out, int64_t n) {
  ForSteps({0, n}, [&](int64_t i, auto step) {
    StoreStep(Apply(function, LoadStep(x + i, step)), out + i, step);
  });
}

void MultiplyLoop(bool in_pairs, int64_t steps, float* out) {
  F32x16 sums[kLoopSums];
  for (F32x16& sum : sums) sum = Zero();
  const uint16_t pair[2] = {0x3f80, 0x3f80};
  const F32x16 one = Set(1.0f);
  const Bf16x32 ones = SetPairs(pair);
  for (int64_t step = 0; step < steps; ++step) {
    M1_UNROLL
    for (F32x16& sum : sums) sum = in_pairs ? Dot(sum, ones, ones) : Fma(one, one, sum);
  }
  F32x16 total = Zero();
  for (const F32x16& sum : sums) total = Add(total, sum);
  Store(total, out);
}

bool PairStepIsExact() {
  Random random;
  for (int64_t lane = 0; lane < kRandomLanes; lane += 16) {
    uint16_t a[32];
    uint16_t b[32];
    float sum[16];
    float odd[2][16];
    float even[2][16];
    for (int i = 0; i < 32; ++i) {
      a[i] = RandomBf16(random);
      b[i] = RandomBf16(random);
    }
    for (int j = 0; j < 16; ++j) {
      const uint16_t halves[2] = {static_cast<uint16_t>(random.Next()), RandomBf16(random)};
      __builtin_memcpy(&sum[j], halves, sizeof(float));
    }
    for (int i = 0; i < 32; ++i) {
      const uint32_t wide[2] = {static_cast<uint32_t>(a[i]) << 16, static_cast<uint32_t>(b[i])
                                                                       << 16};
      for (int operand = 0; operand < 2; ++operand) {
        float* to = i % 2 == 0 ? even[operand] : odd[operand];
        __builtin_memcpy(&to[i / 2], &wide[operand], sizeof(float));
      }
    }
    float got[16];
    float want[16];
    Store(Dot(Load(sum), LoadPairs(a), LoadPairs(b)), got);
    Store(Fma(Load(even[0]), Load(even[1]), Fma(Load(odd[0]), Load(odd[1]), Load(sum))), want);
    for (int j = 0; j < 16; ++j) {
      const bool both_nan = __builtin_isnan(got[j]) && __builtin_isnan(want[j]);
      if (!both_nan && __builtin_memcmp(&got[j], &want[j], sizeof(float)) != 0) return false;
    }
  }
  return true;
}

}  // namespace m1::M1_SIMD_NAMESPACE
