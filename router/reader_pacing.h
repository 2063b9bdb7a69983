// Which samples of a call go on while its reader is slow. One that does not go on is parked: freed
// on its worker, and later replayed to the same bits, which computes its tokens again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace m1 {

// Thread-compatible.
class ReaderPacing {
 public:
  // Above this many bytes waiting for the reader, its samples are parked as they bring more, until
  // half of the bytes are read.
  static constexpr int64_t kMaxWaitingBytes = 1 << 20;
  // Replays compute at most one row for so many new tokens, and what is needed for one to go on.
  static constexpr int64_t kTokensPerReplayedRow = 2;

  explicit ReaderPacing(int num_samples = 0)
      : samples_(static_cast<size_t>(num_samples)), num_unfinished_(num_samples) {}

  // New tokens of a sample.
  void OnTokens(int sample, int64_t count);
  // Asked when a sample brought more or wants to start: false parks it, if it was not parked.
  bool GoesOn(int sample, int64_t waiting_bytes);
  void OnFinished(int sample);
  // The samples to resume, now that so many bytes wait. They are parked no more.
  std::vector<int> TakeResumed(int64_t waiting_bytes);

 private:
  struct Sample {
    int64_t num_tokens = 0;  // what a replay computes again
    bool is_parked = false;
  };

  Sample& At(int sample) { return samples_[static_cast<size_t>(sample)]; }
  // How many samples may go on with so many bytes waiting: one at half of the bytes, all at none.
  int64_t NumToRun(int64_t waiting_bytes) const;

  std::vector<Sample> samples_;
  int64_t num_unfinished_ = 0;
  int64_t num_parked_ = 0;
  int64_t num_new_tokens_ = 0;
  int64_t num_replayed_ = 0;
  bool is_full_ = false;
};

}  // namespace m1
