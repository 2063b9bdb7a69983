// What property tests have in common: how far they go, and whether two runs did the same.
#pragma once

#include <cstdint>

namespace m1 {

// `steps`, or a part of them where a sanitizer makes each dear.
constexpr int PropertySteps(int steps) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return steps / 12;
#else
  return steps;
#endif
}

// FNV-1a over 64-bit words: equal sequences of decisions have equal hashes.
class DecisionHash {
 public:
  void Mix(uint64_t value) { hash_ = (hash_ ^ value) * 1099511628211U; }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 14695981039346656037U;
};

}  // namespace m1
