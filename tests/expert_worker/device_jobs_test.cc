#include "expert_worker/device_jobs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_device_link.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

// Rows of four bf16 numbers; slots of four rows.
class DeviceJobsTest : public testing::Test {
 protected:
  static FrameHeader Header(int32_t slot, int32_t num_rows = 2, int32_t num_pairs = 3) {
    FrameHeader header;
    header.dtype = DType::kBf16;
    header.id = 10 + static_cast<uint64_t>(slot);
    header.num_rows = num_rows;
    header.hidden = 4;
    header.num_pairs = num_pairs;
    header.device_slot = slot;
    return header;
  }
  absl::Status Expect(const FrameHeader& header) {
    return jobs_->Expect(header, {{0, 1}, {1, 1}, {1, 2}});
  }

  const std::shared_ptr<FakeDeviceLink> link_ =
      std::make_shared<FakeDeviceLink>(DeviceSlots{2, 4 * 8});
  std::unique_ptr<DeviceJobs> jobs_ = std::make_unique<DeviceJobs>(link_);
};

TEST_F(DeviceJobsTest, AJobIsReadyWhenItsRowsAreHere) {
  ASSERT_OK(Expect(Header(1)));
  ASSERT_OK(Expect(Header(0)));
  EXPECT_EQ(link_->received_bytes, std::vector<int64_t>({16, 16}));
  EXPECT_TRUE(jobs_->TakeReady().empty());
  link_->receiving.erase(1);
  auto ready = jobs_->TakeReady();
  ASSERT_EQ(ready.size(), 1U);
  EXPECT_EQ(jobs_->num_expected(), 1);
  const ExpertJob& work = ready[0]->work;
  EXPECT_TRUE(work.is_on_device);
  EXPECT_EQ(work.rows.data(), link_->incoming(1));
  EXPECT_EQ(work.out.data(), link_->outgoing(1));
  EXPECT_EQ(work.out.shape(), Shape({3, 4}));
  EXPECT_EQ(work.pairs.size(), 3U);

  jobs_->Answer(*ready[0]);
  EXPECT_EQ(link_->sent_bytes, std::vector<int64_t>({24}));
  // The next rows may come at once; the answer before them is still read.
  ASSERT_OK(Expect(Header(1)));
  link_->receiving.erase(1);
  EXPECT_TRUE(jobs_->TakeReady().empty());
  link_->sending.clear();
  EXPECT_EQ(jobs_->TakeReady().size(), 1U);
}

TEST_F(DeviceJobsTest, AReleasedSlotTakesRowsAgain) {
  ASSERT_OK(Expect(Header(0)));
  link_->receiving.clear();
  auto ready = jobs_->TakeReady();
  ASSERT_EQ(ready.size(), 1U);
  EXPECT_THAT(Expect(Header(0)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  jobs_->Release(*ready[0]);
  EXPECT_OK(Expect(Header(0)));
  EXPECT_TRUE(link_->sent_bytes.empty());
}

TEST_F(DeviceJobsTest, RefusesRowsThatHaveNoPlace) {
  EXPECT_THAT(Expect(Header(2)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(Expect(Header(-1)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(Expect(Header(0, 5)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(Expect(Header(0, 2, 5)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(Expect(Header(0, 0)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(Expect(Header(0, 2, 0)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  link_->is_ready = false;
  EXPECT_THAT(Expect(Header(0)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  link_->is_ready = true;
  EXPECT_TRUE(link_->received_bytes.empty());
  ASSERT_OK(Expect(Header(0)));
  EXPECT_THAT(Expect(Header(0)), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
}

TEST_F(DeviceJobsTest, AJobKeepsItsMemory) {
  ASSERT_OK(Expect(Header(0)));
  link_->receiving.clear();
  auto ready = jobs_->TakeReady();
  jobs_.reset();
  EXPECT_TRUE(link_->is_closed);
  EXPECT_EQ(ready[0]->link, link_);
}

}  // namespace
}  // namespace m1
