#include "common/exchange/dispatch_ledger.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int32_t kNumExperts = 6;
constexpr absl::Time kStart = absl::UnixEpoch();

class DispatchLedgerTest : public testing::Test {
 protected:
  DispatchLedgerTest()
      : directory_(kNumExperts, kStart), rows_(DType::kF32, {3, 1}), out_(DType::kF32, {3, 2, 1}) {}

  DispatchBatch Batch() { return {0, 4, 2, rows_.view(), expert_ids_, out_.view()}; }

  std::vector<const ExpertShipment*> Assign(int32_t max_rows = 100) {
    return ledger_.Assign(directory_, [max_rows](PeerId) { return max_rows; });
  }

  // Answers each pair with a number made of its row and expert.
  absl::StatusOr<bool> Answer(PeerId peer, const ExpertShipment& shipment) {
    std::vector<float> rows;
    for (const RowExpert& pair : shipment.pairs) {
      const int32_t row = shipment.row_indices[static_cast<size_t>(pair.row)];
      rows.push_back(static_cast<float>(10 * row + pair.expert));
    }
    FrameHeader header;
    header.kind = FrameKind::kCombine;
    header.dtype = DType::kF32;
    header.id = shipment.id;
    header.layer = 4;
    header.hidden = 1;
    header.num_pairs = static_cast<int32_t>(rows.size());
    ByteChunks body(std::as_bytes(std::span(rows)));
    return ledger_.Complete(peer, header, &body);
  }

  std::vector<float> Out() const { return {out_.data_as<float>(), out_.data_as<float>() + 6}; }

  ExpertDirectory directory_;
  Tensor rows_;
  Tensor out_;
  std::vector<int32_t> expert_ids_ = {0, 3, 3, 5, 1, 0};
  const std::vector<float> expected_ = {0, 3, 13, 15, 21, 20};
  DispatchLedger ledger_;
};

TEST_F(DispatchLedgerTest, EachPeerGetsItsRowsOnce) {
  directory_.Add(1, {0, 1, 2});
  directory_.Add(2, {3, 4, 5});
  ledger_.Begin(Batch());
  const std::vector<const ExpertShipment*> shipments = Assign();
  ASSERT_EQ(shipments.size(), 2U);
  EXPECT_EQ(shipments[0]->peer, 1);
  EXPECT_THAT(shipments[0]->row_indices, ElementsAre(0, 2));
  EXPECT_EQ(shipments[0]->pairs.size(), 3U);
  EXPECT_EQ(shipments[1]->peer, 2);
  EXPECT_THAT(shipments[1]->row_indices, ElementsAre(0, 1));
  EXPECT_THAT(shipments[1]->out_indices, ElementsAre(1, 2, 3));
  EXPECT_FALSE(ledger_.done());
  ASSERT_OK(Answer(2, *shipments[1]));
  ASSERT_OK(Answer(1, *shipments[0]));
  EXPECT_TRUE(ledger_.done());
  EXPECT_EQ(Out(), expected_);
}

TEST_F(DispatchLedgerTest, SplitsAtTheRowsAPeerTakes) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  const std::vector<const ExpertShipment*> shipments = Assign(2);
  ASSERT_EQ(shipments.size(), 2U);
  EXPECT_THAT(shipments[0]->row_indices, ElementsAre(0, 1));
  EXPECT_THAT(shipments[1]->row_indices, ElementsAre(2));
  for (const ExpertShipment* shipment : shipments) ASSERT_OK(Answer(1, *shipment));
  EXPECT_EQ(Out(), expected_);
}

TEST_F(DispatchLedgerTest, ReplicasShareTheExperts) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  directory_.Add(2, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  std::map<PeerId, size_t> pairs;
  for (const ExpertShipment* shipment : Assign()) pairs[shipment->peer] += shipment->pairs.size();
  EXPECT_EQ(pairs[1], 3U);
  EXPECT_EQ(pairs[2], 3U);
}

TEST_F(DispatchLedgerTest, PairsWithoutHostWaitForOne) {
  directory_.Add(1, {0, 1, 2});
  ledger_.Begin(Batch());
  const std::vector<const ExpertShipment*> shipments = Assign();
  ASSERT_EQ(shipments.size(), 1U);
  EXPECT_THAT(ledger_.WaitingExperts(), ElementsAre(3, 5));
  ASSERT_OK(Answer(1, *shipments[0]));
  EXPECT_FALSE(ledger_.done());
  directory_.Add(2, {3, 5});
  const std::vector<const ExpertShipment*> later = Assign();
  ASSERT_EQ(later.size(), 1U);
  ASSERT_OK(Answer(2, *later[0]));
  EXPECT_TRUE(ledger_.done());
  EXPECT_EQ(Out(), expected_);
}

TEST_F(DispatchLedgerTest, RowsThatAreElsewhereAreTakenByWhoKnowsThem) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  const ExpertShipment shipment = *Assign().front();
  FrameHeader header;
  header.kind = FrameKind::kCombine;
  header.dtype = DType::kF32;
  header.id = shipment.id;
  header.layer = 4;
  header.hidden = 1;
  header.num_pairs = static_cast<int32_t>(shipment.pairs.size());
  header.device_slot = 0;
  std::vector<int32_t> taken;
  absl::Status result = absl::InternalError("the device");
  const auto take = [&](std::span<const int32_t> out_indices) {
    taken.assign(out_indices.begin(), out_indices.end());
    return result;
  };
  EXPECT_EQ(ledger_.Complete(1, header, take).status(), result);
  EXPECT_FALSE(ledger_.done());
  result = absl::OkStatus();
  ASSERT_OK_AND_ASSIGN(const bool is_taken, ledger_.Complete(1, header, take));
  EXPECT_TRUE(is_taken);
  EXPECT_EQ(taken, shipment.out_indices);
  EXPECT_TRUE(ledger_.done());
  taken.clear();
  ASSERT_OK_AND_ASSIGN(const bool doubled, ledger_.Complete(1, header, take));
  EXPECT_FALSE(doubled);
  EXPECT_TRUE(taken.empty());
}

TEST_F(DispatchLedgerTest, LostPeersPairsGoAgainAndLateAnswersAreIgnored) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  const ExpertShipment lost = *Assign().front();
  ledger_.PeerLost(1);
  directory_.Remove(1, kStart);
  EXPECT_EQ(ledger_.num_losses(), 1);
  EXPECT_THAT(ledger_.WaitingExperts(), ElementsAre(0, 1, 3, 5));
  directory_.Add(2, {0, 1, 2, 3, 4, 5});
  const std::vector<const ExpertShipment*> again = Assign();
  ASSERT_EQ(again.size(), 1U);
  const ExpertShipment copy = *again[0];
  EXPECT_NE(copy.id, lost.id);
  ASSERT_OK_AND_ASSIGN(const bool taken, Answer(1, lost));
  EXPECT_FALSE(taken);
  ASSERT_OK_AND_ASSIGN(const bool from_another_peer, Answer(3, copy));
  EXPECT_FALSE(from_another_peer);
  ASSERT_OK(Answer(2, copy));
  EXPECT_TRUE(ledger_.done());
  ASSERT_OK_AND_ASSIGN(const bool doubled, Answer(2, copy));
  EXPECT_FALSE(doubled);
  EXPECT_EQ(Out(), expected_);
}

TEST_F(DispatchLedgerTest, RefusesAnswersThatDoNotFit) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  const ExpertShipment& shipment = *Assign().front();
  FrameHeader good;
  good.kind = FrameKind::kCombine;
  good.dtype = DType::kF32;
  good.id = shipment.id;
  good.layer = 4;
  good.hidden = 1;
  good.num_pairs = 6;
  const auto answer = [&](const FrameHeader& header) {
    const std::vector<float> rows(6);
    ByteChunks body(std::as_bytes(std::span(rows)));
    return ledger_.Complete(1, header, &body).status();
  };
  FrameHeader bad = good;
  bad.layer = 5;
  EXPECT_THAT(answer(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer 5")));
  bad = good;
  bad.num_pairs = 5;
  EXPECT_THAT(answer(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5 rows")));
  bad = good;
  bad.hidden = 2;
  EXPECT_FALSE(answer(bad).ok());
  bad = good;
  bad.dtype = DType::kBf16;
  EXPECT_FALSE(answer(bad).ok());
  bad = good;
  bad.kind = FrameKind::kDispatch;
  EXPECT_FALSE(answer(bad).ok());
  EXPECT_OK(answer(good));
}

TEST_F(DispatchLedgerTest, NextBatchForgetsTheLast) {
  directory_.Add(1, {0, 1, 2, 3, 4, 5});
  ledger_.Begin(Batch());
  const ExpertShipment old = *Assign().front();
  ledger_.Begin(Batch());
  ASSERT_OK_AND_ASSIGN(const bool taken, Answer(1, old));
  EXPECT_FALSE(taken);
  EXPECT_EQ(Assign().size(), 1U);
}

TEST_F(DispatchLedgerTest, ValidateNamesWhatIsWrong) {
  EXPECT_OK(ValidateDispatch(Batch(), kNumExperts));
  expert_ids_[2] = 6;
  EXPECT_THAT(ValidateDispatch(Batch(), kNumExperts),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expert 6, the model has 6")));
  expert_ids_.pop_back();
  EXPECT_THAT(ValidateDispatch(Batch(), kNumExperts),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5 expert ids, want 6")));
  out_ = Tensor(DType::kF32, {3, 2, 2});
  EXPECT_THAT(ValidateDispatch(Batch(), kNumExperts),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out is [3, 2, 2]")));
}

TEST(ExpertDirectoryTest, KnowsWhatIsMissingSinceWhen) {
  ExpertDirectory directory(3, kStart);
  EXPECT_THAT(directory.Missing(), ElementsAre(0, 1, 2));
  EXPECT_EQ(directory.missing_since(1), kStart);
  directory.Add(7, {0, 1, 2});
  directory.Add(8, {1});
  EXPECT_THAT(directory.Missing(), IsEmpty());
  EXPECT_EQ(directory.missing_since(1), absl::InfiniteFuture());
  EXPECT_THAT(directory.hosts(1), UnorderedElementsAre(7, 8));
  directory.Remove(7, kStart + absl::Seconds(5));
  directory.Remove(7, kStart + absl::Seconds(6));
  EXPECT_THAT(directory.Missing(), ElementsAre(0, 2));
  EXPECT_EQ(directory.missing_since(0), kStart + absl::Seconds(5));
}

}  // namespace
}  // namespace m1
