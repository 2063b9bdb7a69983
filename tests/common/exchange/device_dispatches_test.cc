#include "common/exchange/device_dispatches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tensor/tensor.h"
#include "tests/support/fake_device_link.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

// Rows of four bf16 numbers; slots of four rows.
class DeviceDispatchesTest : public testing::Test {
 protected:
  // Of two rows, three pairs.
  static FrameHeader Header(uint64_t id) {
    FrameHeader header;
    header.dtype = DType::kBf16;
    header.id = id;
    header.num_rows = 2;
    header.hidden = 4;
    header.num_pairs = 3;
    return header;
  }
  bool Send(FrameHeader* header) {
    const absl::StatusOr<bool> sent = dispatches_.Send(rows_.view(), rows_of_, header);
    EXPECT_OK(sent);
    return sent.ok() && *sent;
  }

  const std::shared_ptr<FakeDeviceLink> link_ =
      std::make_shared<FakeDeviceLink>(DeviceSlots{2, 4 * 8});
  DeviceDispatches dispatches_{link_};
  Tensor rows_{DType::kBf16, {5, 4}};
  const std::vector<int32_t> rows_of_ = {4, 1};
};

TEST_F(DeviceDispatchesTest, ASlotIsTakenUntilItsAnswerWas) {
  FrameHeader first = Header(1);
  FrameHeader second = Header(2);
  FrameHeader third = Header(3);
  EXPECT_TRUE(Send(&first));
  EXPECT_TRUE(Send(&second));
  EXPECT_EQ(first.device_slot + second.device_slot, 1);
  EXPECT_FALSE(Send(&third));
  EXPECT_TRUE(third.rows_in_frame());
  EXPECT_EQ(link_->sent_bytes, std::vector<int64_t>({16, 16}));

  link_->sending.clear();
  ASSERT_OK(dispatches_.OnAnswer(CombineHeader(second)));
  EXPECT_EQ(link_->received_bytes, std::vector<int64_t>({24}));
  EXPECT_EQ(dispatches_.poll_interval(), absl::ZeroDuration());
  EXPECT_FALSE(dispatches_.NextAnswer().has_value());
  link_->receiving.clear();
  const std::optional<FrameHeader> answer = dispatches_.NextAnswer();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->id, 2U);
  EXPECT_FALSE(Send(&third));
  dispatches_.Release(*answer);
  EXPECT_TRUE(Send(&third));
  EXPECT_EQ(third.device_slot, second.device_slot);
}

TEST_F(DeviceDispatchesTest, AnErrorFreesTheSlotOnceItsRowsAreGone) {
  FrameHeader first = Header(1);
  FrameHeader second = Header(2);
  FrameHeader third = Header(3);
  EXPECT_TRUE(Send(&first) && Send(&second));
  dispatches_.OnError(7);
  dispatches_.OnError(1);
  EXPECT_FALSE(Send(&third));
  link_->sending.clear();
  EXPECT_TRUE(Send(&third));
}

TEST_F(DeviceDispatchesTest, WhatDoesNotFitIsLeftToTheFrame) {
  FrameHeader header = Header(1);
  header.num_pairs = 5;
  EXPECT_FALSE(Send(&header));
  header = Header(1);
  header.num_rows = 5;
  EXPECT_FALSE(Send(&header));
  header = Header(1);
  header.num_pairs = 0;
  EXPECT_FALSE(Send(&header));
  header = Header(1);
  link_->is_ready = false;
  EXPECT_FALSE(Send(&header));
  link_->is_ready = true;
  link_->status = absl::UnavailableError("broken");
  EXPECT_FALSE(Send(&header));
  EXPECT_TRUE(link_->sent_bytes.empty());
  DispatchBatch batch;
  batch.rows = rows_.view();
  batch.experts_per_row = 2;
  EXPECT_EQ(dispatches_.MaxRows(batch), 2);
  batch.experts_per_row = 9;
  EXPECT_EQ(dispatches_.MaxRows(batch), 1);
}

TEST_F(DeviceDispatchesTest, RefusesAnswersToNothing) {
  FrameHeader sent = Header(1);
  ASSERT_TRUE(Send(&sent));
  const FrameHeader good = CombineHeader(sent);
  const auto with = [&good](auto change) {
    FrameHeader header = good;
    change(&header);
    return header;
  };
  for (const FrameHeader& bad :
       {with([](FrameHeader* h) { h->device_slot = 1; }),
        with([](FrameHeader* h) { h->device_slot = -1; }),
        with([](FrameHeader* h) { h->device_slot = 15; }), with([](FrameHeader* h) { h->id = 2; }),
        with([](FrameHeader* h) { h->hidden = 5; }), with([](FrameHeader* h) { h->num_pairs = 4; }),
        with([](FrameHeader* h) { h->dtype = DType::kF32; }),
        with([](FrameHeader* h) { h->kind = FrameKind::kDispatch; })}) {
    EXPECT_THAT(dispatches_.OnAnswer(bad),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  }
  EXPECT_TRUE(link_->received_bytes.empty());
  ASSERT_OK(dispatches_.OnAnswer(good));
  EXPECT_THAT(dispatches_.OnAnswer(good), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
}

}  // namespace
}  // namespace m1
