// What is in memory after a worker has loaded its share, page by page as the kernel counts it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

// When a page is touched the kernel also maps those of its neighbours in the same 64 KiB that lie
// in the page cache already; a border of what is owned may show that much more.
constexpr int64_t kFaultAroundBytes = 64 << 10;

// Bytes of `view`'s pages that are mapped into this process, from /proc/self/pagemap.
int64_t ResidentBytes(ConstTensorView view) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(view.data()) / page;
  const uintptr_t last =
      (reinterpret_cast<uintptr_t>(view.data()) + static_cast<uintptr_t>(view.num_bytes()) - 1) /
      page;
  std::vector<uint64_t> entries(last - first + 1);
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const auto size = static_cast<ssize_t>(entries.size() * sizeof(uint64_t));
  EXPECT_EQ(pread(fd, entries.data(), static_cast<size_t>(size),
                  static_cast<off_t>(first * sizeof(uint64_t))),
            size);
  close(fd);
  const auto present = std::count_if(entries.begin(), entries.end(),
                                     [](uint64_t entry) { return (entry >> 63) != 0; });
  return present * static_cast<int64_t>(page);
}

// Rss of all mappings of files below `path`, from /proc/self/smaps.
int64_t MappedRss(const std::string& path) {
  std::ifstream smaps("/proc/self/smaps");
  int64_t bytes = 0;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' ') && line.find(':') > line.find(' ')) {
      ours = line.find(path) != std::string::npos;
    } else if (ours && line.rfind("Rss:", 0) == 0) {
      bytes += std::stoll(line.substr(4)) * 1024;
    }
  }
  return bytes;
}

// About 50 MB, nearly all of it experts: 2 layers of 32, three matrices of 256 KiB each.
nlohmann::json LargeConfig() {
  nlohmann::json config = TinyConfig();
  config.merge_patch({{"num_hidden_layers", 2},
                      {"hidden_size", 256},
                      {"intermediate_size", 512},
                      {"num_local_experts", 32},
                      {"vocab_size", 2048},
                      {"num_attention_heads", 8},
                      {"head_dim", 32},
                      {"attn_type_list", {0, 1}}});
  return config;
}

class ResidencyTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = WriteTinyCheckpoint(directory_, "c", LargeConfig());
    ASSERT_OK_AND_ASSIGN(checkpoint_, Checkpoint::Open(path_));
    for (int32_t expert = 0; expert < 32; ++expert) all_.push_back(expert);
  }

  int64_t ResidentExpertBytes(int32_t expert) const {
    int64_t bytes = 0;
    for (int32_t layer = 0; layer < 2; ++layer) {
      const ExpertWeights w = checkpoint_->expert_weights(layer, expert);
      bytes += ResidentBytes(w.w1.values) + ResidentBytes(w.w2.values) + ResidentBytes(w.w3.values);
    }
    return bytes;
  }

  int64_t ResidentEmbeddingBytes() const {
    const AttentionWeights w = checkpoint_->attention_weights();
    return ResidentBytes(w.embedding) + ResidentBytes(w.lm_head.values) +
           ResidentBytes(w.layers[0].lightning->output_gate.values);
  }

  TempDirectory directory_;
  std::string path_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<int32_t> all_;
};

TEST_F(ResidencyTest, OpeningTouchesNoWeight) { EXPECT_EQ(MappedRss(path_), 0); }

TEST_F(ResidencyTest, AnExpertWorkerHoldsItsQuarterOfTheExpertsAndNoAttentionWeight) {
  const std::vector<int32_t> owned = {8, 9, 10, 11, 12, 13, 14, 15};
  ASSERT_OK(checkpoint_->PrefetchExperts(owned));
  const int64_t owned_bytes = checkpoint_->expert_weight_bytes(owned);
  EXPECT_EQ(owned_bytes * 4, checkpoint_->expert_weight_bytes(all_));
  // One run of experts in each of two layers: four borders.
  EXPECT_GE(MappedRss(path_), owned_bytes);
  EXPECT_LE(MappedRss(path_), owned_bytes + 4 * kFaultAroundBytes);
  for (int32_t expert = 0; expert < 32; ++expert) {
    const bool is_owned = expert >= 8 && expert < 16;
    const bool is_neighbour = expert == 7 || expert == 16;
    const int64_t resident = ResidentExpertBytes(expert);
    if (is_owned) {
      EXPECT_GE(resident, checkpoint_->expert_weight_bytes({expert})) << expert;
    } else if (!is_neighbour) {
      EXPECT_EQ(resident, 0) << expert;
    }
  }
  EXPECT_EQ(ResidentEmbeddingBytes(), 0);
}

TEST_F(ResidencyTest, AnAttentionWorkerHoldsNoExpert) {
  ASSERT_OK(checkpoint_->PrefetchAttention());
  const int64_t owned_bytes = checkpoint_->attention_weight_bytes();
  EXPECT_GE(MappedRss(path_), owned_bytes);
  EXPECT_LE(MappedRss(path_), owned_bytes + 6 * kFaultAroundBytes);
  EXPECT_EQ(ResidentExpertBytes(16), 0);
  int64_t expert_bytes = 0;
  for (const int32_t expert : all_) expert_bytes += ResidentExpertBytes(expert);
  EXPECT_LE(expert_bytes, 6 * kFaultAroundBytes);
}

TEST_F(ResidencyTest, ProgressCountsToTheOwnedBytesAndCanStop) {
  std::vector<int64_t> done;
  ASSERT_OK(checkpoint_->PrefetchExperts({3, 5}, [&](int64_t done_bytes, int64_t total_bytes) {
    EXPECT_EQ(total_bytes, checkpoint_->expert_weight_bytes({3, 5}));
    done.push_back(done_bytes);
    return true;
  }));
  ASSERT_FALSE(done.empty());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), checkpoint_->expert_weight_bytes({3, 5}));
  int num_calls = 0;
  EXPECT_THAT(checkpoint_->PrefetchExperts(all_, [&](int64_t, int64_t) { return ++num_calls < 2; }),
              StatusIs(absl::StatusCode::kCancelled, testing::HasSubstr("loading was stopped")));
  EXPECT_EQ(num_calls, 2);
}

std::string BytesOf(const MatrixView& matrix) {
  return {static_cast<const char*>(matrix.values.data()),
          static_cast<size_t>(matrix.values.num_bytes())};
}

TEST_F(ResidencyTest, CopiesStandWhereTheFileWasAndHaveItsBytes) {
  const std::vector<int32_t> owned = {0, 1, 2, 9, 31};
  ASSERT_OK_AND_ASSIGN(const auto other, Checkpoint::Open(path_));
  const ExpertWeights before = checkpoint_->expert_weights(1, 9);
  int64_t last_done = 0;
  int64_t last_total = 0;
  ASSERT_OK(checkpoint_->PrefetchExperts(
      owned,
      [&](int64_t done_bytes, int64_t total_bytes) {
        EXPECT_GT(done_bytes, last_done);
        last_done = done_bytes;
        last_total = total_bytes;
        return true;
      },
      WeightMemory::kCopied));
  EXPECT_EQ(last_done, last_total);
  EXPECT_GE(last_total, checkpoint_->expert_weight_bytes(owned));
  EXPECT_LE(MappedRss(path_), 12 * kFaultAroundBytes);
  EXPECT_EQ(checkpoint_->expert_weights(1, 9).w1.values.data(), before.w1.values.data());
  for (int32_t layer = 0; layer < 2; ++layer) {
    for (const int32_t expert : all_) {
      const ExpertWeights copied = checkpoint_->expert_weights(layer, expert);
      const ExpertWeights mapped = other->expert_weights(layer, expert);
      EXPECT_EQ(BytesOf(copied.w1), BytesOf(mapped.w1)) << layer << " " << expert;
      EXPECT_EQ(BytesOf(copied.w2), BytesOf(mapped.w2)) << layer << " " << expert;
      EXPECT_EQ(BytesOf(copied.w3), BytesOf(mapped.w3)) << layer << " " << expert;
    }
  }
}

TEST_F(ResidencyTest, CopiesOutliveTheFilesBytes) {
  ASSERT_OK_AND_ASSIGN(const auto other, Checkpoint::Open(path_));
  const std::string expected = BytesOf(other->expert_weights(1, 31).w2);
  ASSERT_OK(checkpoint_->PrefetchExperts({31}, nullptr, WeightMemory::kCopied));
  std::filesystem::resize_file(path_ + "/model.safetensors", 4096);
  EXPECT_EQ(BytesOf(checkpoint_->expert_weights(1, 31).w2), expected);
}

TEST_F(ResidencyTest, CopyingThatStopsLeavesTheFileInPlace) {
  ASSERT_OK_AND_ASSIGN(const auto other, Checkpoint::Open(path_));
  EXPECT_THAT(checkpoint_->PrefetchExperts(
                  all_, [](int64_t, int64_t) { return false; }, WeightMemory::kCopied),
              StatusIs(absl::StatusCode::kCancelled, testing::HasSubstr("loading was stopped")));
  EXPECT_EQ(BytesOf(checkpoint_->expert_weights(0, 0).w1), BytesOf(other->expert_weights(0, 0).w1));
}

TEST_F(ResidencyTest, AFileThatWasShortenedIsAnErrorOfPrefetch) {
  std::filesystem::resize_file(path_ + "/model.safetensors", 4096);
  EXPECT_THAT(checkpoint_->PrefetchExperts({31}),
              StatusIs(absl::StatusCode::kDataLoss,
                       testing::HasSubstr(path_ + ": weights cannot be read")));
  EXPECT_THAT(checkpoint_->PrefetchExperts({31}, nullptr, WeightMemory::kCopied),
              StatusIs(absl::StatusCode::kDataLoss,
                       testing::HasSubstr("model.safetensors: has 4096 bytes, had ")));
}

}  // namespace
}  // namespace m1
