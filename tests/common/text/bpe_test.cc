#include "common/text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace m1 {
namespace {

std::array<int32_t, 256> Bytes() {
  std::array<int32_t, 256> ids{};
  for (int32_t i = 0; i < 256; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

struct Merge {
  int32_t left;
  int32_t right;
};

// Ids 256 + rank.
BpeMerges MergesOf(const std::vector<Merge>& list) {
  BpeMerges merges(Bytes());
  for (size_t rank = 0; rank < list.size(); ++rank) {
    EXPECT_TRUE(merges.Add(list[rank].left, list[rank].right, 256 + static_cast<int32_t>(rank)));
  }
  return merges;
}

std::vector<int32_t> Encode(const BpeMerges& merges, const std::string& piece) {
  std::vector<int32_t> ids;
  merges.Encode(piece, &ids);
  return ids;
}

// The definition: the lowest rank that applies anywhere, leftmost first, until none does.
std::vector<int32_t> EncodeByDefinition(const std::vector<Merge>& list, const std::string& piece) {
  std::vector<int32_t> ids;
  for (char c : piece) ids.push_back(static_cast<unsigned char>(c));
  for (size_t rank = 0; rank < list.size();) {
    const auto at = std::adjacent_find(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
      return a == list[rank].left && b == list[rank].right;
    });
    if (at == ids.end()) {
      ++rank;
      continue;
    }
    *at = 256 + static_cast<int32_t>(rank);
    ids.erase(at + 1);
    rank = 0;
  }
  return ids;
}

TEST(BpeMergesTest, MergesTheLowestRankFirst) {
  const BpeMerges merges = MergesOf({{'b', 'c'}, {'a', 'b'}, {'a', 256}});
  EXPECT_EQ(Encode(merges, "abc"), (std::vector<int32_t>{258}));
  EXPECT_EQ(Encode(merges, "abd"), (std::vector<int32_t>{257, 'd'}));
  EXPECT_EQ(Encode(merges, ""), (std::vector<int32_t>{}));
  EXPECT_EQ(Encode(merges, "a"), (std::vector<int32_t>{'a'}));
}

TEST(BpeMergesTest, MergesTheLeftmostOfEqualRanks) {
  const BpeMerges merges = MergesOf({{'a', 'a'}});
  EXPECT_EQ(Encode(merges, "aaa"), (std::vector<int32_t>{256, 'a'}));
  const std::vector<int32_t> ids = Encode(merges, std::string(1001, 'a'));
  EXPECT_EQ(ids.size(), 501u);
  EXPECT_EQ(ids.back(), 'a');
}

TEST(BpeMergesTest, RefusesASecondRankOfAPair) {
  BpeMerges merges(Bytes());
  EXPECT_TRUE(merges.Add('a', 'b', 256));
  EXPECT_FALSE(merges.Add('a', 'b', 257));
  EXPECT_TRUE(merges.Add('b', 'a', 257));
}

// Lengths on both sides of the border between the scan and the heap; merges out of few letters, so
// that later ranks build on earlier ones in any order.
TEST(BpeMergesTest, EqualsTheDefinitionOnRandomMerges) {
  std::mt19937 random(7);
  const auto below = [&random](size_t bound) { return static_cast<size_t>(random() % bound); };
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> symbols = {'a', 'b', 'c'};
    std::vector<Merge> list;
    while (list.size() < 40) {
      const Merge merge{symbols[below(symbols.size())], symbols[below(symbols.size())]};
      const bool known = std::any_of(list.begin(), list.end(), [&](const Merge& other) {
        return other.left == merge.left && other.right == merge.right;
      });
      if (known) continue;
      symbols.push_back(256 + static_cast<int32_t>(list.size()));
      list.push_back(merge);
    }
    std::shuffle(list.begin(), list.end(), random);
    const BpeMerges merges = MergesOf(list);
    for (const size_t length : {1u, 2u, 3u, 17u, 63u, 64u, 65u, 66u, 200u}) {
      std::string piece;
      while (piece.size() < length) piece.push_back(static_cast<char>('a' + below(3)));
      EXPECT_EQ(Encode(merges, piece), EncodeByDefinition(list, piece)) << piece;
    }
  }
}

}  // namespace
}  // namespace m1
