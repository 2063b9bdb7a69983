// The samples of one request in the scheduler: what they have in common.
#pragma once

#include <cstdint>
#include <map>

namespace m1 {

struct SampleGroup {
  int64_t id = 0;  // the first sample's; names the prompt to workers
  int num_samples = 1;
  int num_unstarted = 1;  // samples that no worker has had yet, and that are not over
  int num_to_start = 1;   // samples that do not run, and are not over: those, and replays
  // Connected workers that were told of the group since it was released there; whether the prompt
  // is kept, or being computed, as far as is known.
  std::map<int, bool> keepers = {};
  int last_worker = -1;  // where one was started last

  bool was_started() const { return last_worker >= 0; }
  bool IsKeptOn(int worker_index) const {
    const auto keeper = keepers.find(worker_index);
    return keeper != keepers.end() && keeper->second;
  }
  // Whether a sample that is started on the worker now is to share its prompt: with those that come
  // after it, or with what those before it have left.
  bool SharesPromptOn(int worker_index) const {
    return num_samples > 1 && (num_to_start > 1 || keepers.contains(worker_index));
  }
};

// Seed of sample `index` of a request with this seed: its own for 0, else the first output of the
// generator SplitMix64 (Steele, Lea, Flood 2014) with the state seed + index.
constexpr uint64_t SampleSeed(uint64_t seed, int index) {
  if (index == 0) return seed;
  uint64_t z = seed + static_cast<uint64_t>(index) + 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace m1
