// Links between two ends of one process, over the fake NCCL and the simulated GPU.
#include "common/nccl/nccl_link.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "absl/strings/match.h"
#include "absl/time/clock.h"

#include "common/kernels/cuda_backend.h"
#include "common/nccl/nccl_transport.h"
#include "common/tensor/tensor.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/simulated_gpu.h"
#include "tests/support/status_matchers.h"

namespace m1::nccl {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHidden = 48;
constexpr int64_t kRowBytes = kHidden * 2;
constexpr DeviceSlots kSlots = {.num_slots = 3, .slot_bytes = 16 * kRowBytes};

class NcclLinkTest : public testing::Test {
 protected:
  ~NcclLinkTest() override { SetFakeNcclFaults({}); }

  absl::StatusOr<std::shared_ptr<DeviceLink>> Open(const DeviceLinkKeys& keys, DeviceLinkEnd end,
                                                   absl::Duration timeout = absl::Seconds(20)) {
    return transport_->Open(keys, kSlots, end, timeout);
  }
  void OpenBoth(absl::Duration timeout = absl::Seconds(20)) {
    const absl::StatusOr<DeviceLinkKeys> keys = transport_->NewKeys();
    ASSERT_OK(keys);
    auto attention = Open(*keys, DeviceLinkEnd::kAttention, timeout);
    ASSERT_OK(attention);
    auto expert = Open(*keys, DeviceLinkEnd::kExpert, timeout);
    ASSERT_OK(expert);
    attention_ = *attention;
    expert_ = *expert;
  }
  // Polls both ends until the condition holds; false when it does not, or an end broke.
  bool PollUntil(const std::function<bool()>& condition,
                 absl::Duration timeout = absl::Seconds(20)) {
    const absl::Time deadline = absl::Now() + timeout;
    while (absl::Now() < deadline) {
      if (!attention_->Poll().ok() || !expert_->Poll().ok()) return false;
      if (condition()) return true;
    }
    return false;
  }
  void Connect() {
    ASSERT_NO_FATAL_FAILURE(OpenBoth());
    ASSERT_TRUE(PollUntil([this] { return attention_->ready() && expert_->ready(); }));
  }

  Tensor DeviceRows(int64_t rows, uint32_t seed) {
    Tensor host = HostRows(rows, seed);
    Tensor tensor = gpu_->NewTensor(DType::kBf16, host.shape());
    EXPECT_OK(gpu_->Upload(host.view(), tensor.view()));
    return tensor;
  }
  static Tensor HostRows(int64_t rows, uint32_t seed) {
    Tensor host(DType::kBf16, {rows, kHidden});
    std::mt19937 random(seed);
    for (int64_t i = 0; i < rows * kHidden; ++i) {
      host.data_as<Bf16>()[i] = static_cast<Bf16>(random() & 0x3fff);
    }
    return host;
  }
  std::vector<Bf16> Download(ConstTensorView view) {
    Tensor host(view.dtype(), view.shape());
    EXPECT_OK(gpu_->Download(view, host.view()));
    const Bf16* begin = host.data_as<Bf16>();
    return {begin, begin + view.num_elements()};
  }
  static std::vector<Bf16> Elements(const Tensor& host) {
    const Bf16* begin = host.data_as<Bf16>();
    return {begin, begin + host.shape().num_elements()};
  }

  const std::unique_ptr<KernelBackend> gpu_ = CreateCudaBackend().value();
  const std::unique_ptr<DeviceTransport> transport_ =
      CreateNcclTransport(gpu_.get(), StreamOf(*gpu_));
  std::shared_ptr<DeviceLink> attention_;
  std::shared_ptr<DeviceLink> expert_;
};

TEST_F(NcclLinkTest, ConnectsAndRests) {
  ASSERT_NO_FATAL_FAILURE(OpenBoth());
  EXPECT_FALSE(attention_->ready());
  EXPECT_LT(attention_->poll_interval(), absl::Seconds(1));
  EXPECT_TRUE(PollUntil([this] {
    return attention_->poll_interval() == absl::InfiniteDuration() &&
           expert_->poll_interval() == absl::InfiniteDuration();
  }));
  EXPECT_TRUE(attention_->ready() && expert_->ready());
}

// Both slots' rows go out before any comes in, each gathered from rows that change afterwards.
TEST_F(NcclLinkTest, RowsGoThereAndBackWithTwoInFlight) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  const std::vector<int32_t> indices = {7, 0, 3, 3 + 1, 9};
  const int64_t bytes = static_cast<int64_t>(indices.size()) * kRowBytes;
  Tensor out = gpu_->NewTensor(DType::kBf16, {12, kHidden});
  const std::vector<int32_t> places = {1, 11, 0, 5, 6};
  for (uint32_t round = 0; round < 5; ++round) {
    for (const int32_t slot : {2, 0}) {
      Tensor rows = DeviceRows(10, 10 * round + static_cast<uint32_t>(slot));
      ASSERT_OK(attention_->Gather(rows.view(), indices, slot));
      attention_->Send(slot, bytes);
      EXPECT_FALSE(attention_->is_sent(slot));
      ASSERT_OK(gpu_->Zero(rows.view()));
    }
    for (const int32_t slot : {2, 0}) expert_->Receive(slot, bytes);
    ASSERT_TRUE(PollUntil([this] { return expert_->is_received(2) && expert_->is_received(0); }));
    // The answer: the rows, in the order of the slots that came last.
    for (const int32_t slot : {0, 2}) {
      const TensorView in(expert_->incoming(slot), DType::kBf16, {5, kHidden});
      const TensorView answer(expert_->outgoing(slot), DType::kBf16, {5, kHidden});
      const std::vector<int32_t> iota = {0, 1, 2, 3, 4};
      ASSERT_OK(gpu_->CopyRows(in, iota, answer, iota));
      expert_->Send(slot, bytes);
      attention_->Receive(slot, bytes);
    }
    ASSERT_TRUE(
        PollUntil([this] { return attention_->is_received(2) && attention_->is_received(0); }));
    for (const int32_t slot : {2, 0}) {
      ASSERT_OK(attention_->Scatter(slot, out.view(), places));
      const Tensor sent = DeviceRows(10, 10 * round + static_cast<uint32_t>(slot));
      for (size_t i = 0; i < indices.size(); ++i) {
        EXPECT_EQ(Download(out.view().Rows(places[i], 1)),
                  Download(sent.view().Rows(indices[i], 1)));
      }
    }
    ASSERT_TRUE(PollUntil([this] {
      return attention_->is_sent(0) && attention_->is_sent(2) && expert_->is_sent(0) &&
             expert_->is_sent(2);
    }));
  }
}

// What is sent is what the backend's operations leave, though they have not run yet.
TEST_F(NcclLinkTest, SendsWaitForTheBackend) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  const Tensor host = HostRows(4, 1);
  const Tensor rows = DeviceRows(4, 1);
  ASSERT_OK(attention_->Gather(rows.view(), std::vector<int32_t>{0, 1, 2, 3}, 1));
  attention_->Send(1, 4 * kRowBytes);
  expert_->Receive(1, 4 * kRowBytes);
  ASSERT_TRUE(PollUntil([this] { return expert_->is_received(1); }));
  EXPECT_EQ(Download(TensorView(expert_->incoming(1), DType::kBf16, {4, kHidden})), Elements(host));
}

TEST_F(NcclLinkTest, SetUpEndsInTime) {
  SetFakeNcclFaults({.never_connects = true});
  ASSERT_NO_FATAL_FAILURE(OpenBoth(absl::Milliseconds(30)));
  ASSERT_TRUE(Eventually([this] { return !attention_->Poll().ok(); }));
  EXPECT_THAT(std::string(attention_->Poll().message()), HasSubstr("did not connect in time"));
}

TEST_F(NcclLinkTest, ATestMessageThatDoesNotComeEndsTheSetUp) {
  constexpr char kWanted[] = "no test message came in time";
  std::string message;
  // On a machine that stalls the connection does not come in time either: then in a longer one.
  for (absl::Duration timeout = absl::Milliseconds(50);
       timeout < absl::Seconds(15) && !absl::StrContains(message, kWanted); timeout *= 4) {
    SetFakeNcclFaults({.good_transfers = 1});
    ASSERT_NO_FATAL_FAILURE(OpenBoth(timeout));
    EXPECT_FALSE(PollUntil([this] { return attention_->ready(); }));
    message = std::string(attention_->Poll().message());
  }
  EXPECT_THAT(message, HasSubstr(kWanted));
}

TEST_F(NcclLinkTest, ATestMessageThatChangedEndsTheSetUp) {
  SetFakeNcclFaults({.corrupts = true});
  ASSERT_NO_FATAL_FAILURE(OpenBoth());
  EXPECT_FALSE(PollUntil([this] { return attention_->ready(); }));
  EXPECT_THAT(std::string(attention_->Poll().message()), HasSubstr("came back changed"));
}

TEST_F(NcclLinkTest, AnErrorOfNcclBreaksTheLink) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  SetFakeNcclFaults({.good_transfers = 0, .error = true});
  attention_->Send(0, kRowBytes);
  expert_->Receive(0, kRowBytes);
  ASSERT_TRUE(Eventually([this] { return !attention_->Poll().ok(); }));
  EXPECT_EQ(attention_->Poll().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(attention_->Poll().message()), HasSubstr("network error"));
  attention_->Send(1, kRowBytes);  // does nothing
}

// The other end is gone in the middle of a message: nobody says so, and an abort ends it.
TEST_F(NcclLinkTest, AVanishedPeerIsNotNoticedAndAbortingEndsIt) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  attention_->Send(0, 8 * kRowBytes);
  expert_.reset();
  ASSERT_TRUE(Eventually([] { return NumFakeCommunicators() == 2; }));
  for (int i = 0; i < 50; ++i) ASSERT_OK(attention_->Poll());
  EXPECT_FALSE(attention_->is_sent(0));
  attention_->Close();
  EXPECT_TRUE(attention_->is_sent(0));
  EXPECT_TRUE(Eventually([] { return NumFakeCommunicators() == 0; }));
  EXPECT_EQ(attention_->Poll().code(), absl::StatusCode::kUnavailable);
}

TEST_F(NcclLinkTest, SizesThatDifferBreakTheLink) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  attention_->Send(0, 2 * kRowBytes);
  expert_->Receive(0, 3 * kRowBytes);
  EXPECT_TRUE(Eventually([this] {
    static_cast<void>(attention_->Poll());
    return !expert_->Poll().ok();
  }));
}

TEST_F(NcclLinkTest, MemoryIsTakenAgain) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  int num_taken_again = 0;
  for (int i = 0; i < 100 && num_taken_again < 3; ++i) {
    const int64_t bytes = cuda::GetSimulatedGpuStats().allocated_bytes;
    attention_.reset();
    expert_.reset();
    ASSERT_TRUE(Eventually([] { return NumFakeCommunicators() == 0; }));
    absl::SleepFor(absl::Milliseconds(5));  // mostly enough for the threads that give it back
    ASSERT_NO_FATAL_FAILURE(Connect());
    num_taken_again += cuda::GetSimulatedGpuStats().allocated_bytes == bytes ? 1 : 0;
  }
  EXPECT_EQ(num_taken_again, 3);
}

TEST_F(NcclLinkTest, RefusesWhatHasNoMeaning) {
  const absl::StatusOr<DeviceLinkKeys> keys = transport_->NewKeys();
  ASSERT_OK(keys);
  EXPECT_EQ(transport_->Open({"short", keys->combine}, kSlots, DeviceLinkEnd::kExpert, {})
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  for (const DeviceSlots& slots :
       {DeviceSlots{0, 64}, DeviceSlots{17, 64}, DeviceSlots{-1, 64}, DeviceSlots{1, 0},
        DeviceSlots{1, 63}, DeviceSlots{1, DeviceSlots::kMaxSlotBytes + 1}}) {
    EXPECT_EQ(
        transport_->Open(*keys, slots, DeviceLinkEnd::kExpert, absl::Seconds(1)).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
  // More than the device has.
  EXPECT_EQ(
      transport_
          ->Open(*keys, {16, DeviceSlots::kMaxSlotBytes}, DeviceLinkEnd::kExpert, absl::Seconds(1))
          .status()
          .code(),
      absl::StatusCode::kInternal);
  SetFakeNcclFaults({.id_fails = true});
  EXPECT_EQ(transport_->NewKeys().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace m1::nccl
