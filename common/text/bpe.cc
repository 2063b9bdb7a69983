#include "common/text/bpe.h"

#include <algorithm>
#include <cstddef>
#include <queue>

namespace m1 {
namespace {

// Up to this length a scan for the lowest rank beats a heap.
constexpr size_t kMaxScanned = 64;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A merge that was possible when it was queued.
struct Candidate {
  int32_t rank;
  uint32_t position;  // of the left symbol
  int32_t left;
  int32_t right;

  bool operator<(
      const Candidate& other) const {  // std::priority_queue wants the best to be largest
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

struct Symbol {
  int32_t id;  // -1: merged into the one before
  uint32_t previous;
  uint32_t next;
};

}  // namespace

bool BpeMerges::Add(int32_t left, int32_t right, int32_t result) {
  const auto rank = static_cast<int32_t>(results_.size());
  if (!ranks_.emplace(PairKey(left, right), rank).second) return false;
  results_.push_back(result);
  return true;
}

int32_t BpeMerges::Rank(int32_t left, int32_t right) const {
  const auto it = ranks_.find(PairKey(left, right));
  return it == ranks_.end() ? kNoMerge : it->second;
}

void BpeMerges::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (piece.size() <= kMaxScanned) {
    EncodeShort(piece, ids);
  } else {
    EncodeLong(piece, ids);
  }
}

void BpeMerges::EncodeShort(std::string_view piece, std::vector<int32_t>* ids) const {
  std::array<int32_t, kMaxScanned> symbols;
  std::array<int32_t, kMaxScanned> ranks;  // of symbols i and i + 1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = Rank(symbols[i], symbols[i + 1]);
  while (count > 1) {
    const auto best = static_cast<size_t>(
        std::min_element(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(count - 1)) -
        ranks.begin());
    if (ranks[best] == kNoMerge) break;
    symbols[best] = results_[static_cast<size_t>(ranks[best])];
    --count;
    for (size_t i = best + 1; i < count; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 1 < count; ++i) ranks[i] = ranks[i + 1];
    if (best + 1 < count) ranks[best] = Rank(symbols[best], symbols[best + 1]);
    if (best > 0) ranks[best - 1] = Rank(symbols[best - 1], symbols[best]);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.begin() + static_cast<ptrdiff_t>(count));
}

void BpeMerges::EncodeLong(std::string_view piece, std::vector<int32_t>* ids) const {
  const auto count = static_cast<uint32_t>(piece.size());
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], i - 1, i + 1};
  }
  std::vector<Candidate> initial;
  const auto candidate_at = [&](uint32_t position) {
    const int32_t left = symbols[position].id;
    const int32_t right = symbols[symbols[position].next].id;
    return Candidate{Rank(left, right), position, left, right};
  };
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (const Candidate candidate = candidate_at(i); candidate.rank != kNoMerge) {
      initial.push_back(candidate);
    }
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(initial));
  const auto push_at = [&](uint32_t position) {
    if (const Candidate candidate = candidate_at(position); candidate.rank != kNoMerge) {
      queue.push(candidate);
    }
  };
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id != best.left || left.next == count || symbols[left.next].id != best.right) continue;
    left.id = results_[static_cast<size_t>(best.rank)];
    symbols[left.next].id = -1;
    left.next = symbols[left.next].next;
    if (left.next != count) {
      symbols[left.next].previous = best.position;
      push_at(best.position);
    }
    if (best.position != 0) push_at(left.previous);
  }
  for (uint32_t i = 0; i != count; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace m1
