#include "tools/m1/up_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace m1 {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(UpOptionsTest, DefaultsAreValid) { EXPECT_TRUE(UpOptions().Validate().ok()); }

TEST(UpOptionsTest, ErrorsNameTheFlag) {
  const auto message = [](const auto& change) {
    UpOptions options;
    change(&options);
    return std::string(options.Validate().message());
  };
  EXPECT_THAT(message([](UpOptions* o) { o->expert_workers = 0; }), HasSubstr("--expert_workers is 0"));
  EXPECT_THAT(message([](UpOptions* o) { o->attention_workers = 65; }), HasSubstr("--attention_workers"));
  EXPECT_THAT(message([](UpOptions* o) { o->port = 65536; }), HasSubstr("--port"));
  EXPECT_THAT(message([](UpOptions* o) { o->transport = "tcp"; }), HasSubstr("--transport"));
  EXPECT_THAT(message([](UpOptions* o) { o->model.clear(); }), HasSubstr("--model"));
  EXPECT_THAT(message([](UpOptions* o) { o->passed_on = {{"colour", "red"}}; }), HasSubstr("--colour"));
}

TEST(UpOptionsTest, EachExpertWorkerTakesItsShard) {
  UpOptions options;
  options.expert_workers = 3;
  ProcessArgsInput input;
  input.kind = ProcessKind::kExpertWorker;
  input.index = 2;
  input.port = 4711;
  EXPECT_THAT(ProcessArgs(options, input), ElementsAre("--model=models/tiny", "--port=4711", "--shard=2/3"));
}

TEST(UpOptionsTest, EachKindGetsItsPeers) {
  UpOptions options;
  ProcessArgsInput input;
  input.expert_addresses = {"127.0.0.1:1", "127.0.0.1:2"};
  input.attention_addresses = {"127.0.0.1:3"};
  input.kind = ProcessKind::kAttentionWorker;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--expert_workers=shm:127.0.0.1:1,shm:127.0.0.1:2");
  options.transport = "grpc";
  EXPECT_EQ(ProcessArgs(options, input).back(), "--expert_workers=127.0.0.1:1,127.0.0.1:2");
  input.kind = ProcessKind::kRouter;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--attention_workers=127.0.0.1:3");
}

TEST(UpOptionsTest, InprocRunsExpertsInTheAttentionWorker) {
  UpOptions options;
  options.transport = "inproc";
  ProcessArgsInput input;
  input.kind = ProcessKind::kAttentionWorker;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--expert_workers=inproc");
}

TEST(UpOptionsTest, PinsWhereTheMachineIsItsOwn) {
  UpOptions options;
  EXPECT_TRUE(options.PinsByDefault(2, 2));
  EXPECT_FALSE(options.PinsByDefault(1, 2));
  options.passed_on = {{"queue_size", "9"}};
  EXPECT_TRUE(options.PinsByDefault(2, 2));
  options.passed_on = {{"queue_size", "9"}, {"threads", "2"}};
  EXPECT_FALSE(options.PinsByDefault(2, 2));
}

TEST(UpOptionsTest, WorkersArePinnedAndRoutersAreNot) {
  UpOptions options;
  ProcessArgsInput input;
  for (const ProcessKind kind :
       {ProcessKind::kExpertWorker, ProcessKind::kAttentionWorker, ProcessKind::kRouter}) {
    input.kind = kind;
    options.pin = false;
    EXPECT_THAT(ProcessArgs(options, input), Not(Contains("--pin")));
    options.pin = true;
    const std::vector<std::string> args = ProcessArgs(options, input);
    EXPECT_EQ(std::count(args.begin(), args.end(), "--pin"), kind == ProcessKind::kRouter ? 0 : 1);
  }
}

TEST(UpOptionsTest, FlagsGoToThoseThatKnowThem) {
  UpOptions options;
  options.passed_on = {{"threads", "2"}, {"queue_size", "9"}, {"max_sequences", "7"}};
  ProcessArgsInput input;
  input.kind = ProcessKind::kExpertWorker;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--threads=2");
  input.kind = ProcessKind::kRouter;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--queue_size=9");
  input.kind = ProcessKind::kAttentionWorker;
  EXPECT_EQ(ProcessArgs(options, input).back(), "--max_sequences=7");
}

}  // namespace
}  // namespace m1
