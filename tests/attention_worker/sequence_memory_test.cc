// What a sequence of the real model takes, from the code that leases it.
#include <gtest/gtest.h>

#include <cstdint>

#include "attention_worker/kv_cache.h"
#include "attention_worker/linear_state.h"
#include "attention_worker/step_policy.h"

namespace m1 {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

ModelConfig MiniMaxM1() {
  auto config = LoadModelConfig("tests/golden/minimax-m1");
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

TEST(SequenceMemoryTest, MiniMaxM1HasSeventyLightningAndTenSoftmaxLayers) {
  const ModelConfig config = MiniMaxM1();
  EXPECT_EQ(config.num_lightning_layers(), 70);
  EXPECT_EQ(config.num_softmax_layers(), 10);
}

TEST(SequenceMemoryTest, ASlotIsTheStateAndTheOpenChunk) {
  const ModelConfig config = MiniMaxM1();
  // fp32 state [70, 64, 128, 128]; keys and values of 32 tokens [2, 70, 64, 32, 128].
  EXPECT_EQ(LinearState::SlotBytes(config, DType::kBf16), 280 * kMiB + 70 * kMiB);
  EXPECT_EQ(LinearState::SlotBytes(config, DType::kF32), 280 * kMiB + 140 * kMiB);
}

TEST(SequenceMemoryTest, ASlotDoesNotGrowWithTheContext) {
  ModelConfig config = MiniMaxM1();
  const int64_t bytes = LinearState::SlotBytes(config, DType::kBf16);
  config.max_context_tokens *= 4;
  EXPECT_EQ(LinearState::SlotBytes(config, DType::kBf16), bytes);
}

TEST(SequenceMemoryTest, ATokenTakesFortyKibibytesOfBlocks) {
  const ModelConfig config = MiniMaxM1();
  EXPECT_EQ(kKvBlockTokens, 64);
  EXPECT_EQ(KvCache::BlockBytes(config, DType::kBf16), int64_t{64} * 40 * 1024);
  EXPECT_EQ(NumKvBlocks(262144) * KvCache::BlockBytes(config, DType::kBf16), 10240 * kMiB);
}

}  // namespace
}  // namespace m1
