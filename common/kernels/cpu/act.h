// Passes over rows of fp32 or bf16, 16 elements at a time. For the sources of one instruction set.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

// Calls f(pointer to the element `offset`, as const float* or const uint16_t*).
template <typename F>
inline void WithElements(const ActIn& in, int64_t offset, F f) {
  if (in.is_bf16) {
    f(static_cast<const uint16_t*>(in.data) + offset);
  } else {
    f(static_cast<const float*>(in.data) + offset);
  }
}
template <typename F>
inline void WithElements(const ActOut& out, int64_t offset, F f) {
  if (out.is_bf16) {
    f(static_cast<uint16_t*>(out.data) + offset);
  } else {
    f(static_cast<float*>(out.data) + offset);
  }
}

// How many of 16 lanes a step has.
struct WholeStep {};
struct PartialStep {
  int64_t n;
};
template <typename T>
inline F32x16 LoadStep(const T* from, WholeStep) {
  return Load(from);
}
template <typename T>
inline F32x16 LoadStep(const T* from, PartialStep step) {
  return LoadPartial(from, step.n);
}
template <typename T>
inline void StoreStep(F32x16 a, T* to, WholeStep) {
  Store(a, to);
}
template <typename T>
inline void StoreStep(F32x16 a, T* to, PartialStep step) {
  StorePartial(a, to, step.n);
}

// The lanes that a step does not have become those of `absent`.
inline F32x16 Padded(F32x16 a, WholeStep, F32x16) { return a; }
inline F32x16 Padded(F32x16 a, PartialStep step, F32x16 absent) {
  float lanes[16];
  Store(absent, lanes);
  StorePartial(a, lanes, step.n);
  return Load(lanes);
}
// Bit j is set for the lanes that a step has.
inline uint32_t LanesOf(WholeStep) { return 0xffffU; }
inline uint32_t LanesOf(PartialStep step) { return (1U << step.n) - 1U; }

// Calls f(i, step) for i = begin, begin + 16, ... below end.
template <typename F>
inline void ForSteps(Range range, F f) {
  int64_t i = range.begin;
  for (; i + 16 <= range.end; i += 16) f(i, WholeStep{});
  if (i < range.end) f(i, PartialStep{range.end - i});
}

}  // namespace m1::M1_SIMD_NAMESPACE
