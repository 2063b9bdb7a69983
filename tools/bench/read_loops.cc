#include "tools/bench/read_loops.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace m1 {
namespace {

uint64_t ReadWords(const uint64_t* words, int64_t num_words) {
  uint64_t sums[4] = {};
  for (int64_t i = 0; i < num_words; i += 4) {
    for (int64_t j = 0; j < 4; ++j) sums[j] ^= words[i + j];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) uint64_t ReadAvx2(const uint64_t* words, int64_t num_words) {
  __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                     _mm256_setzero_si256()};
  for (int64_t i = 0; i < num_words; i += 16) {
    for (int64_t j = 0; j < 4; ++j) {
      sums[j] = _mm256_xor_si256(
          sums[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(words + i + 4 * j)));
    }
  }
  const __m256i sum =
      _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0) ^ _mm256_extract_epi64(sum, 1) ^
                               _mm256_extract_epi64(sum, 2) ^ _mm256_extract_epi64(sum, 3));
}

// Reads kStreams equal parts side by side, each `kAhead` words behind its prefetch (0: none).
template <int64_t kStreams, int64_t kAhead>
__attribute__((target("avx512f"))) uint64_t ReadAvx512(const uint64_t* words, int64_t num_words) {
  const int64_t part = num_words / kStreams;
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  constexpr int64_t kVectors = 8 / kStreams;  // of each stream in a turn
  for (int64_t i = 0; i < part; i += 8 * kVectors) {
    for (int64_t s = 0; s < kStreams; ++s) {
      for (int64_t j = 0; j < kVectors; ++j) {
        const uint64_t* from = words + s * part + i + 8 * j;
        if (kAhead > 0) _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
        __m512i& sum = sums[s * kVectors + j];
        sum = _mm512_xor_si512(sum, _mm512_load_si512(from));
      }
    }
  }
  alignas(64) uint64_t lanes[8] = {};
  for (const __m512i& sum : sums) {
    _mm512_store_si512(lanes, _mm512_xor_si512(_mm512_load_si512(lanes), sum));
  }
  uint64_t all = 0;
  for (const uint64_t lane : lanes) all ^= lane;
  return all;
}

#endif

std::vector<ReadLoop> FindLoops() {
  std::vector<ReadLoop> loops = {{"words", ReadWords}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) loops.push_back({"avx2", ReadAvx2});
  if (__builtin_cpu_supports("avx512f")) {
    loops.push_back({"avx512", ReadAvx512<1, 0>});
    loops.push_back({"avx512, prefetch 2 KiB", ReadAvx512<1, 256>});
    loops.push_back({"avx512, 4 streams", ReadAvx512<4, 0>});
    loops.push_back({"avx512, 4 streams, prefetch 1 KiB", ReadAvx512<4, 128>});
  }
#endif
  return loops;
}

}  // namespace

std::span<const ReadLoop> ReadLoops() {
  static const std::vector<ReadLoop>& loops = *new std::vector<ReadLoop>(FindLoops());
  return loops;
}

}  // namespace m1
