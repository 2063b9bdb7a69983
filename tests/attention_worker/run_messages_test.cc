#include "attention_worker/run_messages.h"

#include "gtest/gtest.h"

namespace m1 {
namespace {

// An event with a string that is no UTF-8 cannot be parsed, and the router would lose the worker.
TEST(RunMessagesTest, EventsAreReadableWhateverAPeerSaid) {
  StepEvents events;
  events.finished.push_back(
      FailedSequence(7, absl::UnavailableError("expert says \xFF\xC3 and \xE2\x82")));
  std::string wire;
  ASSERT_TRUE(StepEvent(events).SerializeToString(&wire));
  v1::RunEvent event;
  ASSERT_TRUE(event.ParseFromString(wire));
  ASSERT_EQ(event.step().finished_size(), 1);
  EXPECT_EQ(event.step().finished(0).status_message(), "expert says ?? and ??");
  EXPECT_EQ(event.step().finished(0).status_code(), 14);
}

TEST(RunMessagesTest, AStartIsReadWhole) {
  v1::RunCommand command;
  v1::Start& start = *command.mutable_start();
  start.set_prompt_token_count(7);
  start.set_generated_prompt_token_count(2);
  start.set_prompt_group(11);
  start.mutable_sampling()->set_repetition_penalty(1.5F);
  start.mutable_sampling()->set_presence_penalty(0.25F);
  start.mutable_sampling()->set_frequency_penalty(-0.5F);
  (*start.mutable_sampling()->mutable_logit_bias())[3] = 2.0F;
  start.mutable_limits()->set_max_new_tokens(9);
  start.mutable_limits()->set_min_new_tokens(4);
  const absl::StatusOr<SequenceCommand> parsed = ParseCommand(command);
  ASSERT_TRUE(parsed.ok());
  const auto& read = std::get<SequenceStart>(*parsed);
  EXPECT_EQ(read.first_generated_index(), 5);
  EXPECT_EQ(read.prompt_group, 11);
  EXPECT_EQ(read.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(read.sampling.presence_penalty, 0.25F);
  EXPECT_EQ(read.sampling.frequency_penalty, -0.5F);
  ASSERT_EQ(read.sampling.logit_bias.size(), 1U);
  EXPECT_EQ(read.sampling.logit_bias[0], (std::pair<int32_t, float>(3, 2.0F)));
  EXPECT_EQ(read.max_new_tokens, 9);
  EXPECT_EQ(read.min_new_tokens, 4);
}

TEST(RunMessagesTest, AReleaseNamesItsGroup) {
  v1::RunCommand command;
  command.mutable_release_prompt()->set_prompt_group(11);
  const absl::StatusOr<SequenceCommand> parsed = ParseCommand(command);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(std::get<ReleasePrompt>(*parsed).prompt_group, 11);
}

}  // namespace
}  // namespace m1
