// exp, log, sigmoid and silu out of fused multiply-add, division and integer steps alone: the same
// bits on every instruction set. The vector forms in cpu/ do the same steps lane by lane, and a
// test compares them. Callers run with FTZ and DAZ (ScopedFlushDenormals). Errors where the result
// is normal: at most 1 ulp (exp, log), 2 (sigmoid) and 2.5 (silu).
#pragma once

namespace m1 {

// exp(x); 0 below -87.3, +inf above 88.7; NaN for NaN.
float ExactExp(float x);
// Natural log of x > 0; -inf for 0, NaN below.
float ExactLog(float x);
// 1 / (1 + exp(-x))
float ExactSigmoid(float x);
// x * sigmoid(x)
float ExactSilu(float x);

// Sets flush-to-zero and denormals-are-zero for the calling thread until destroyed.
class ScopedFlushDenormals {
 public:
  ScopedFlushDenormals();
  ~ScopedFlushDenormals();
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
  unsigned saved_;
};

}  // namespace m1
