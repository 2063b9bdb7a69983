// Priorities, fair shares, sessions and deadlines in the scheduler.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class SchedulerPriorityTest : public SchedulerTest {
 protected:
  int64_t SubmitAt(int32_t priority, int prompt_tokens = 3, const std::string& client = "a") {
    GenerationRequest request = MakeRequest(prompt_tokens, 100);
    request.priority = priority;
    request.client = client;
    return Submit(std::move(request));
  }
  void Preempted(int64_t sequence_id, WorkerCredits credits) {
    WorkerEvents events;
    events.preempted_sequence_ids = {sequence_id};
    events.credits = credits;
    scheduler_->OnStep(0, events, now_);
  }
  std::vector<int64_t> StartedOrders() const {
    std::vector<int64_t> orders;
    for (const auto& start : commands_.starts) orders.push_back(start.second.arrival_order);
    return orders;
  }
};

TEST_F(SchedulerPriorityTest, HigherPriorityGoesFirstAndTheWorkerIsTold) {
  Make(1);
  SubmitAt(0);
  SubmitAt(5);
  SubmitAt(-5);
  Welcome(0);
  EXPECT_THAT(StartedOrders(), ElementsAre(2, 1, 3));
  EXPECT_EQ(commands_.starts[0].second.priority, 5);
}

TEST_F(SchedulerPriorityTest, LowerOnesMakeRoomAndGoOnLater) {
  Make(1);
  Welcome(0, /*slots=*/2);
  SubmitAt(0);
  SubmitAt(1);
  SubmitAt(2);
  EXPECT_THAT(commands_.preempts, ElementsAre(std::pair(0, 1)));
  SubmitAt(1);  // waits: the room that comes is for the one before it
  EXPECT_THAT(commands_.preempts, ElementsAre(std::pair(0, 1)));
  Preempted(1, {.handled_start_count = 2, .state_slots = 1, .kv_blocks = 50, .ready = true});
  EXPECT_THAT(StartedOrders(), ElementsAre(1, 2, 3));
  EXPECT_EQ(scheduler_->num_queued(), 2U);
  WorkerEvents events;
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  EXPECT_THAT(StartedOrders(), ElementsAre(1, 2, 3, 4, 1));
}

TEST_F(SchedulerPriorityTest, AgeProtectsWhatRuns) {
  Make(1);
  Welcome(0, /*slots=*/1);
  SubmitAt(0);
  now_ += absl::Minutes(2);
  SubmitAt(1);
  EXPECT_THAT(commands_.preempts, IsEmpty());
  SubmitAt(3);
  EXPECT_THAT(commands_.preempts, ElementsAre(std::pair(0, 1)));
}

TEST_F(SchedulerPriorityTest, ClientsShare) {
  Make(1);
  for (int i = 0; i < 4; ++i) SubmitAt(0, 10, "many");
  for (int i = 0; i < 2; ++i) SubmitAt(0, 10, "few");
  Welcome(0);
  EXPECT_THAT(StartedOrders(), ElementsAre(1, 5, 2, 6, 3, 4));
}

TEST_F(SchedulerPriorityTest, ASessionStaysOnItsWorkerUnlessThatIsMuchBusier) {
  Make(2);
  for (int i = 0; i < 2; ++i) Welcome(i, /*slots=*/8, /*kv_blocks=*/2000);
  const auto submit = [this](const std::string& session, int32_t max_new_tokens) {
    GenerationRequest request = MakeRequest(3, max_new_tokens);
    request.session_id = session;
    Submit(request);
  };
  submit("s", 100);
  submit("s", 100);
  submit("", 10);
  submit("s", 70000);
  submit("s", 10);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 0, 1, 0, 1));
}

TEST_F(SchedulerPriorityTest, WhatIsPastItsDeadlineIsNeverStarted) {
  Make(1);
  GenerationRequest request = MakeRequest(3, 10);
  request.deadline = now_ + absl::Seconds(1);
  Submit(request);
  Submit(request);
  now_ += absl::Seconds(1);
  Welcome(0);
  EXPECT_THAT(commands_.starts, IsEmpty());
  ASSERT_TRUE(sinks_[0]->error && sinks_[1]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SchedulerPriorityTest, AStepPastTheDeadlineIsTheLast) {
  Make(1);
  Welcome(0);
  GenerationRequest request = MakeRequest(3, 10);
  request.deadline = now_ + absl::Seconds(1);
  Submit(request);
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);
  EXPECT_THAT(commands_.cancels, IsEmpty());
  now_ += absl::Seconds(1);
  scheduler_->OnStep(0, Tokens(1, {6}, Plenty()), now_);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::pair(0, 1)));
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
}

}  // namespace
}  // namespace m1
