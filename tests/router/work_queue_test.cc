#include "router/work_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace m1 {
namespace {

using ::testing::ElementsAre;

class WorkQueueTest : public testing::Test {
 protected:
  Ticket Make(int32_t priority, const std::string& client, int seconds = -1) {
    Ticket ticket;
    ticket.arrival_order = ++last_;
    ticket.request = last_;
    ticket.arrival_time = absl::UnixEpoch() + absl::Seconds(seconds < 0 ? last_ : seconds);
    ticket.priority = priority;
    ticket.client = client;
    return ticket;
  }
  Ticket Push(int32_t priority = 0, const std::string& client = "a", int seconds = -1) {
    Ticket ticket = Make(priority, client, seconds);
    EXPECT_TRUE(queue_.TryPush(ticket));
    return tickets_[ticket.arrival_order] = ticket;
  }
  // Starts the next one, which is served so many tokens.
  int64_t Take(int64_t num_tokens = 10) {
    const std::optional<int64_t> next = queue_.Next();
    if (!next) return 0;
    queue_.Remove(*next);
    queue_.Charge(tickets_[*next], num_tokens);
    return *next;
  }
  std::vector<int64_t> TakeAll() {
    std::vector<int64_t> taken;
    while (const int64_t id = Take()) taken.push_back(id);
    return taken;
  }

  WorkQueue queue_{100, absl::Seconds(10)};
  std::map<int64_t, Ticket> tickets_;
  int64_t last_ = 0;
};

TEST_F(WorkQueueTest, OneClientIsServedInOrderOfArrival) {
  for (int i = 0; i < 4; ++i) Push();
  EXPECT_THAT(TakeAll(), ElementsAre(1, 2, 3, 4));
}

TEST_F(WorkQueueTest, APointOfPriorityIsWorthAnAgeingPeriod) {
  Push(0, "a", 0);
  Push(1, "a", 9);   // 9 s later, worth 10
  Push(1, "a", 11);  // behind the first one by itself, but its class goes on as long as 2 waits
  Push(-1, "a", 12);
  Push(0, "a", 13);
  EXPECT_THAT(TakeAll(), ElementsAre(2, 1, 3, 5, 4));
}

TEST_F(WorkQueueTest, WaitingOvertakesAnyPriority) {
  Push(-100, "a", 0);
  for (int i = 0; i < 5; ++i) Push(100, "b", 1000 + i);
  EXPECT_EQ(Take(), 2);
  Push(100, "b", 2001);  // more than 200 points of 10 s later
  for (int i = 0; i < 4; ++i) Take();
  EXPECT_EQ(Take(), 1);
}

TEST_F(WorkQueueTest, ClientsOfAClassShareByTokens) {
  for (int i = 0; i < 6; ++i) Push(0, "many");
  Push(0, "few");
  Push(0, "few");
  EXPECT_EQ(Take(10), 1);
  EXPECT_EQ(Take(10), 7);
  EXPECT_EQ(Take(50), 2);  // equal so far: the oldest
  EXPECT_EQ(Take(10), 8);
  EXPECT_EQ(Take(10), 3);
}

TEST_F(WorkQueueTest, TokensOfTheAnswerCountToo) {
  const Ticket a = Push(0, "a");
  Push(0, "b");
  Push(0, "a");
  Push(0, "b");
  Take(10);
  Take(10);
  queue_.Charge(a, 5);
  EXPECT_EQ(Take(), 4);
}

TEST_F(WorkQueueTest, BeingAwaySavesNothingUp) {
  for (int i = 0; i < 50; ++i) Push(0, "busy");
  for (int i = 0; i < 20; ++i) Take(100);
  for (int i = 0; i < 20; ++i) Push(0, "new");
  std::map<std::string, int> counts;
  for (int i = 0; i < 20; ++i) ++counts[tickets_[Take(100)].client];
  EXPECT_NEAR(counts["new"], 10, 1);
}

TEST_F(WorkQueueTest, WhatComesBackIsAtTheHeadOfItsClass) {
  Push(0, "a");
  Push(0, "b");
  const Ticket third = Push(0, "a");
  Take(1000);
  queue_.Remove(3);
  queue_.Return(third);
  EXPECT_EQ(Take(), 3);
  EXPECT_EQ(Take(), 2);
}

TEST_F(WorkQueueTest, WhoIsSetAsideHoldsBackNobody) {
  Push();
  Push();
  queue_.SetAside(1);
  queue_.SetAside(1);
  EXPECT_EQ(queue_.size(), 2U);
  EXPECT_EQ(queue_.Next(), 2);
  queue_.BringBack();
  EXPECT_EQ(queue_.Next(), 1);
  queue_.SetAside(1);
  EXPECT_TRUE(queue_.Remove(1));
  queue_.BringBack();
  EXPECT_EQ(queue_.Next(), 2);
}

TEST_F(WorkQueueTest, OnlyNewRequestsAreRefused) {
  WorkQueue queue(1, absl::Seconds(1));
  const Ticket first = Make(0, "a");
  ASSERT_TRUE(queue.TryPush(first));
  EXPECT_FALSE(queue.TryPush(Make(0, "a")));
  queue.Remove(first.arrival_order);
  ASSERT_TRUE(queue.TryPush(Make(0, "a")));
  queue.Return(first);
  EXPECT_EQ(queue.size(), 2U);
}

TEST_F(WorkQueueTest, NothingIsKeptOfWhoLeft) {
  const Ticket ticket = Push(3, "a");
  Take();
  queue_.Leave(ticket);
  EXPECT_EQ(queue_.Next(), std::nullopt);
  Push(3, "a");
  EXPECT_EQ(Take(), 2);
}

// Two clients with one request at a time, of which one always waits, beside one with a backlog.
TEST_F(WorkQueueTest, ClientsThatComeAndGoDoNotStarveOneThatStays) {
  WorkQueue queue(100, absl::Minutes(1));
  int64_t id = 0;
  const auto add = [&](const std::string& client) {
    const Ticket ticket{.arrival_order = ++id,
                        .arrival_time = absl::UnixEpoch() + absl::Seconds(id),
                        .priority = 0,
                        .client = client};
    EXPECT_TRUE(queue.TryPush(ticket));
    return ticket;
  };
  const Ticket first = add("stays");
  const Ticket second = add("stays");
  queue.Remove(first.arrival_order);
  queue.Charge(first, 100);
  Ticket waiting = add("comes and goes 0");
  int num_passed = 0;
  while (*queue.Next() != second.arrival_order && num_passed < 1000) {
    const Ticket running = waiting;
    queue.Remove(running.arrival_order);
    queue.Charge(running, 100);
    waiting = add("comes and goes " + std::to_string(++num_passed % 2));
    queue.Leave(running);
  }
  EXPECT_LE(num_passed, 5);
}

TEST_F(WorkQueueTest, ARequestTakesAPlaceAsLongAsAnySampleOfItWaits) {
  WorkQueue queue(2, absl::Seconds(10));
  const auto push = [&](int64_t request) {
    Ticket ticket = Make(0, "a");
    ticket.request = request;
    return queue.TryPush(ticket);
  };
  EXPECT_TRUE(push(1));
  EXPECT_TRUE(push(2));
  EXPECT_FALSE(push(3));
  EXPECT_TRUE(push(1));  // another sample of the first
  EXPECT_TRUE(queue.Remove(1));
  EXPECT_FALSE(push(3));  // one sample of it still waits
  EXPECT_TRUE(queue.Remove(4));
  EXPECT_TRUE(push(3));
  EXPECT_FALSE(push(4));
}

TEST_F(WorkQueueTest, WhatNeverRanComesBackToItsOwnPlace) {
  const Ticket first = Push();
  const Ticket second = Push();
  queue_.Remove(second.arrival_order);
  queue_.Return(second, /*to_head=*/false);
  EXPECT_EQ(queue_.Next(), first.arrival_order);
  queue_.Remove(second.arrival_order);
  queue_.Return(second);
  EXPECT_EQ(queue_.Next(), second.arrival_order);
}

}  // namespace
}  // namespace m1
