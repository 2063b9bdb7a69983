#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "attention_worker/kv_cache.h"
#include "attention_worker/options.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

AttentionWorkerOptions Valid() {
  AttentionWorkerOptions options;
  options.model.directory = "DIR";
  options.expert_workers = "inproc";
  return options;
}

ModelConfig Tiny() {
  auto config = LoadModelConfig("tests/golden/mini-bf16");
  EXPECT_TRUE(config.ok());
  return *config;
}

TEST(AttentionOptionsTest, ErrorsNameTheFlag) {
  EXPECT_TRUE(Validate(Valid()).ok());
  const std::vector<std::pair<std::function<void(AttentionWorkerOptions&)>, std::string>> cases = {
      {[](auto& o) { o.model.directory = ""; }, "--model"},
      {[](auto& o) { o.expert_workers = ""; }, "--expert_workers"},
      {[](auto& o) { o.model.threads = -1; }, "--threads is -1, wanted 0 to 1024"},
      {[](auto& o) { o.max_sequences = 0; }, "--max_sequences is 0"},
      {[](auto& o) { o.kv_bytes = -5; }, "--kv_bytes is -5"},
      {[](auto& o) { o.max_context_tokens = -1; }, "--max_context_tokens is -1"},
      {[](auto& o) { o.max_step_tokens = 0; }, "--max_step_tokens is 0"},
      {[](auto& o) { o.max_replay_tokens = -1; }, "--max_replay_tokens is -1"},
      {[](auto& o) { o.target_itl = -absl::Seconds(1); }, "--target_itl is -1s"},
      {[](auto& o) { o.batches_in_flight = "3"; },
       "--batches_in_flight is \"3\", wanted auto, 1 or 2"},
      {[](auto& o) { o.exchange_timeout = absl::ZeroDuration(); }, "--exchange_timeout is 0"},
      {[](auto& o) { o.expert_loss_timeout = absl::InfiniteDuration(); },
       "--expert_loss_timeout is inf"}};
  for (const auto& [change, message] : cases) {
    AttentionWorkerOptions options = Valid();
    change(options);
    EXPECT_THAT(Validate(options).message(), HasSubstr(message));
  }
}

TEST(AttentionOptionsTest, ExpertsInThisProcessGetOneBatchUnlessToldOtherwise) {
  AttentionWorkerOptions options = Valid();
  EXPECT_EQ(LaneMode(options), LanePolicy::Mode::kOne);
  options.batches_in_flight = "2";
  EXPECT_EQ(LaneMode(options), LanePolicy::Mode::kTwo);
  options.batches_in_flight = "auto";
  options.expert_workers = "127.0.0.1:1";
  EXPECT_EQ(LaneMode(options), LanePolicy::Mode::kMeasured);
}

TEST(AttentionOptionsTest, LimitsComeFromFlagsModelAndMachine) {
  const ModelConfig config = Tiny();
  AttentionWorkerOptions options = Valid();
  options.max_sequences = 4;
  options.max_context_tokens = 640;
  auto limits = Limits(options, config, DType::kBf16);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->max_context_tokens, 640);
  EXPECT_EQ(limits->kv_blocks, 4 * 11) << "more blocks than all slots can use";
  options.kv_bytes = 3 * KvCache::BlockBytes(config, DType::kBf16) + 7;
  limits = Limits(options, config, DType::kBf16);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->kv_blocks, 3);

  options.kv_bytes = 1;
  EXPECT_THAT(Limits(options, config, DType::kBf16).status().message(),
              HasSubstr("--kv_bytes is 1"));
  options.kv_bytes = 0;
  options.max_context_tokens = config.max_context_tokens + 1;
  EXPECT_THAT(Limits(options, config, DType::kBf16).status().message(),
              HasSubstr("--max_context_tokens is"));
  options.max_context_tokens = 0;
  ModelConfig huge = config;
  huge.head_dim = 1 << 20;
  EXPECT_THAT(Limits(options, huge, DType::kBf16).status().message(),
              HasSubstr("--max_sequences 4 and --kv_bytes"));
}

}  // namespace
}  // namespace m1
