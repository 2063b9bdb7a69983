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

}  // namespace
}  // namespace m1
