// Passes over a row of logits or of weights; kernel_table.h says what each does. Counts and sums of
// weights are exact, so the order of lanes does not matter here.
#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// As sampling.h says, with quotient(logit) = logit / temperature.
template <typename Quotient>
double WeighTokens(const DrawWeightsArgs& args, Quotient quotient) {
  const F32x16 peak = quotient(Set(args.peak));
  // Adding it makes the unit the last place of what is smaller.
  const F32x16 rounder = Set(args.unit * 0x1p23f);
  F64x16 sum = ZeroWide();
  ForSteps({0, args.vocab}, [&](int64_t i, auto step) {
    const F32x16 exact = Exp(Sub(quotient(LoadStep(args.logits + i, step)), peak));
    const F32x16 rounded = Sub(Add(exact, rounder), rounder);
    const F32x16 weight = Select(Less(exact, rounder), rounded, exact);
    StoreStep(weight, args.weights + i, step);
    sum = AddWide(sum, Padded(weight, step, Zero()));
  });
  return ReduceWide(sum);
}

// Elements of x in the range for which `bits` has a bit.
template <typename Bits>
int64_t CountIn(const float* x, Range range, Bits bits) {
  int64_t count = 0;
  ForSteps(range, [&](int64_t i, auto step) {
    count += __builtin_popcount(bits(LoadStep(x + i, step)) & LanesOf(step));
  });
  return count;
}

}  // namespace

void BlockMaxima(const float* x, int64_t n, float* maxima) {
  for (int64_t begin = 0; begin < n; begin += kMaximaBlock) {
    const int64_t end = begin + kMaximaBlock < n ? begin + kMaximaBlock : n;
    F32x16 largest = Negate(Infinity());
    ForSteps({begin, end}, [&](int64_t i, auto step) {
      const F32x16 value = Padded(LoadStep(x + i, step), step, Negate(Infinity()));
      largest = Select(Less(largest, value), value, largest);
    });
    *maxima++ = ReduceMax(largest);
  }
}

double DrawWeights(const DrawWeightsArgs& args) {
  if (args.temperature == 1.0f) {
    return WeighTokens(args, [](F32x16 logit) { return logit; });
  }
  const F32x16 temperature = Set(args.temperature);
  return WeighTokens(args, [&](F32x16 logit) { return Div(logit, temperature); });
}

Tally TallyFrom(const float* weights, int64_t n, float floor) {
  const F32x16 least = Set(floor);
  Tally tally{0, 0.0};
  F64x16 sum = ZeroWide();
  ForSteps({0, n}, [&](int64_t i, auto step) {
    const F32x16 weight = LoadStep(weights + i, step);  // absent lanes are 0: below the floor
    const Mask16 below = Less(weight, least);
    const uint32_t counted = LaneBits(below) ^ 0xffffU;
    if (counted == 0) return;
    tally.count += __builtin_popcount(counted);
    sum = AddWide(sum, Select(below, Zero(), weight));
  });
  tally.weight = ReduceWide(sum);
  return tally;
}

int64_t Collect(const float* x, int64_t n, float low, float high, int32_t* indices) {
  const F32x16 least = Set(low);
  const F32x16 limit = Set(high);
  int64_t count = 0;
  ForSteps({0, n}, [&](int64_t i, auto step) {
    const F32x16 value = LoadStep(x + i, step);
    uint32_t bits = LaneBits(Less(value, limit)) & ~LaneBits(Less(value, least)) & LanesOf(step);
    for (; bits != 0; bits &= bits - 1) {
      indices[count++] = static_cast<int32_t>(i + __builtin_ctz(bits));
    }
  });
  return count;
}

void ZeroBelow(float* weights, int64_t n, float floor) {
  const F32x16 least = Set(floor);
  ForSteps({0, n}, [&](int64_t i, auto step) {
    const F32x16 weight = LoadStep(weights + i, step);
    StoreStep(Select(Less(weight, least), Zero(), weight), weights + i, step);
  });
}

int64_t CountBefore(const float* x, int64_t n, int64_t index) {
  const F32x16 own = Set(x[index]);
  return CountIn(x, {0, index}, [&](F32x16 a) { return ~LaneBits(Less(a, own)); }) +
         CountIn(x, {index + 1, n}, [&](F32x16 a) { return LaneBits(Less(own, a)); });
}

}  // namespace m1::M1_SIMD_NAMESPACE
