#include "router/credits.h"

#include <algorithm>

namespace m1 {

int64_t KvBlocksToStart(int64_t num_tokens, int64_t pool_blocks) {
  return std::min((num_tokens + kKvBlockTokens - 1) / kKvBlockTokens + 1, pool_blocks);
}

void CreditLedger::Update(const WorkerCredits& credits) {
  credits_ = credits;
  while (!uncounted_.empty() && uncounted_.front().number <= credits.handled_start_count) {
    uncounted_kv_blocks_ -= uncounted_.front().kv_blocks;
    uncounted_.pop_front();
  }
}

bool CreditLedger::CanStart(int64_t kv_blocks) const {
  return credits_.ready && available_slots() >= 1 && available_kv_blocks() >= kv_blocks;
}

void CreditLedger::Start(int64_t kv_blocks) {
  uncounted_.push_back({.number = ++num_started_, .kv_blocks = kv_blocks});
  uncounted_kv_blocks_ += kv_blocks;
}

int64_t CreditLedger::available_slots() const {
  return credits_.state_slots - static_cast<int64_t>(uncounted_.size());
}

int64_t CreditLedger::available_kv_blocks() const {
  return credits_.kv_blocks - uncounted_kv_blocks_;
}

}  // namespace m1
