#include "common/text/bpe.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>

namespace m1 {
namespace {

// Up to this length a scan for the lowest rank beats a heap.
constexpr size_t kMaxScanned = 64;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Symbol {
  int32_t id;
  int32_t rank;  // of the merge with the next symbol; kNoMerge too if this one is merged away
  uint32_t previous;
  uint32_t next;
};

// A merge that was possible when it was queued: the lowest rank is smallest, then the leftmost.
uint64_t Candidate(int32_t rank, uint32_t position) {
  return static_cast<uint64_t>(rank) << 32 | position;
}

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
  std::vector<uint64_t> candidates;
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], kNoMerge, i - 1, i + 1};
    if (i == 0) continue;
    Symbol& left = symbols[i - 1];
    left.rank = Rank(left.id, symbols[i].id);
    if (left.rank != kNoMerge) candidates.push_back(Candidate(left.rank, i - 1));
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(),
                                                                             std::move(candidates));
  const auto update = [&](uint32_t position) {
    Symbol& left = symbols[position];
    left.rank = left.next == count ? kNoMerge : Rank(left.id, symbols[left.next].id);
    if (left.rank != kNoMerge) queue.push(Candidate(left.rank, position));
  };
  while (!queue.empty()) {
    const uint64_t best = queue.top();
    queue.pop();
    const auto position = static_cast<uint32_t>(best);
    const auto rank = static_cast<int32_t>(best >> 32);
    Symbol& left = symbols[position];
    if (left.rank != rank) continue;  // one of the two has merged with another since
    left.id = results_[static_cast<size_t>(rank)];
    symbols[left.next].rank = kNoMerge;
    left.next = symbols[left.next].next;
    if (left.next != count) symbols[left.next].previous = position;
    update(position);
    if (position != 0) update(left.previous);
  }
  for (uint32_t i = 0; i != count; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace m1
