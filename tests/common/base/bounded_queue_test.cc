#include "common/base/bounded_queue.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>

namespace m1 {
namespace {

TEST(BoundedQueueTest, RefusesWhenFullAndKeepsOrder) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), 2);
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, CloseDrainsThenEndsAWaitingPop) {
  BoundedQueue<int> queue(4);
  queue.TryPush(7);
  int sum = 0;
  std::thread reader([&] {
    while (std::optional<int> item = queue.Pop()) sum += *item;
  });
  queue.TryPush(8);
  queue.Close();
  reader.join();
  EXPECT_EQ(sum, 15);
  EXPECT_FALSE(queue.TryPush(9));
}

}  // namespace
}  // namespace m1
