// The samples of one request in the scheduler: what they have in common.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/time/time.h"

#include "router/request.h"

namespace m1 {

struct SampleGroup {
  int64_t id = 0;  // the first sample's; names the prompt to workers
  std::shared_ptr<const GenerationRequest> request;  // owned by its samples and their call, too
  absl::Time arrival_time;
  int num_samples = 1;
  int num_unstarted = 1;  // samples that no worker has had yet, and that are not over
  int num_open = 1;       // samples that are not over: those in the queue, on workers, and parked
  int num_queued = 1;
  int num_running = 0;
  int last_worker = -1;  // where one was started last

  bool was_started() const { return last_worker >= 0; }
  // A sample is to be started, now or when its reader has caught up, and one runs or will at once:
  // what is only parked holds no memory of a worker.
  bool WantsPrompt() const { return num_open > num_running && num_running + num_queued > 0; }
};

// Tokens that all samples of a request begin with and that none has scored for itself: with a
// repetition rule each counts the prompt's generated tokens.
inline int64_t NumSharedTokens(const GenerationRequest& request) {
  const int32_t counted =
      std::min(request.generated_prompt_token_count, std::max(request.repetition.max_run, 0));
  return static_cast<int64_t>(request.prompt_ids.size()) - counted - 1;
}

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
