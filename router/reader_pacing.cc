#include "router/reader_pacing.h"

namespace m1 {

void ReaderPacing::OnTokens(int sample, int64_t count) {
  At(sample).num_tokens += count;
  num_new_tokens_ += count;
}

bool ReaderPacing::GoesOn(int sample, int64_t waiting_bytes) {
  if (waiting_bytes > kMaxWaitingBytes) is_full_ = true;
  Sample& asking = At(sample);
  if (is_full_ && !asking.is_parked) {
    asking.is_parked = true;
    ++num_parked_;
  }
  return !asking.is_parked;
}

void ReaderPacing::OnFinished(int sample) {
  --num_unfinished_;
  if (!At(sample).is_parked) return;
  At(sample).is_parked = false;
  --num_parked_;
}

int64_t ReaderPacing::NumToRun(int64_t waiting_bytes) const {
  const int64_t read = kMaxWaitingBytes / 2 - waiting_bytes;
  return read < 0 ? 0 : 1 + (num_unfinished_ - 1) * read / (kMaxWaitingBytes / 2);
}

std::vector<int> ReaderPacing::TakeResumed(int64_t waiting_bytes) {
  if (waiting_bytes <= kMaxWaitingBytes / 2) is_full_ = false;
  std::vector<int> resumed;
  if (is_full_) return resumed;
  const int64_t num_to_run = NumToRun(waiting_bytes);
  for (size_t i = 0; i < samples_.size() && num_parked_ > 0; ++i) {
    const int64_t num_running = num_unfinished_ - num_parked_;
    if (num_running >= num_to_run) break;
    Sample& sample = samples_[i];
    const int64_t replayed = num_replayed_ + sample.num_tokens;
    const bool is_affordable = kTokensPerReplayedRow * replayed <= num_new_tokens_;
    if (!sample.is_parked || (num_running > 0 && !is_affordable)) continue;
    sample.is_parked = false;
    --num_parked_;
    num_replayed_ = replayed;
    resumed.push_back(static_cast<int>(i));
  }
  return resumed;
}

}  // namespace m1
