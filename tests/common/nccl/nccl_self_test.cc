// NCCL itself on one GPU: it refuses two ranks there, so one rank sends to itself.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/time/clock.h"

#include "common/kernels/cuda/runtime.h"
#include "common/nccl/runtime.h"

namespace m1::nccl {
namespace {

// Until the communicator's last call is done.
Result Wait(Communicator communicator) {
  Result result = Progress(communicator);
  while (result == kInProgress) {
    absl::SleepFor(absl::Microseconds(100));
    result = Progress(communicator);
  }
  return result;
}

bool Started(Result result) { return result == kSuccess || result == kInProgress; }

TEST(NcclLibraryTest, IsThereOrIsSaidToBeMissing) {
  UniqueId id;
  const Result result = NewUniqueId(&id);
  if (result == kNoLibrary) {
    EXPECT_NE(std::string(ResultName(result)).find("libnccl"), std::string::npos);
  } else {
    EXPECT_EQ(result, kSuccess) << ResultName(result);
  }
}

class NcclSelfTest : public testing::Test {
 protected:
  void SetUp() override {
    size_t bytes = 0;
    if (cuda::AvailableDeviceBytes(&bytes) != 0) GTEST_SKIP() << "no GPU";
    ASSERT_EQ(cuda::OpenTransferStream(&stream_), 0);
    UniqueId id;
    const Result result = NewUniqueId(&id);
    if (result == kNoLibrary) GTEST_SKIP() << ResultName(result);
    ASSERT_EQ(result, kSuccess);
    ASSERT_TRUE(Started(StartCommunicator(id, 1, 0, &communicator_)));
    ASSERT_EQ(Wait(communicator_), kSuccess);
  }
  ~NcclSelfTest() override {
    if (communicator_ != nullptr) Abort(communicator_);
    if (stream_ != nullptr) cuda::CloseStream(stream_);
  }

  cuda::Stream stream_ = nullptr;
  Communicator communicator_ = nullptr;
};

TEST_F(NcclSelfTest, BytesArriveAndTheEventSaysSo) {
  cuda::Event done = nullptr;
  ASSERT_EQ(cuda::NewEvent(&done), 0);
  for (const size_t bytes : {size_t{1}, size_t{64}, size_t{12288}, size_t{12582912}}) {
    std::vector<unsigned char> sent(bytes);
    for (size_t i = 0; i < bytes; ++i) sent[i] = static_cast<unsigned char>(i * 31 + bytes);
    void* from = nullptr;
    void* to = nullptr;
    ASSERT_EQ(cuda::AllocateDevice(bytes, &from), 0);
    ASSERT_EQ(cuda::AllocateDevice(bytes, &to), 0);
    ASSERT_EQ(cuda::ToDevice(from, sent.data(), bytes, stream_), 0);
    ASSERT_EQ(GroupStart(), kSuccess);
    ASSERT_TRUE(Started(Send(from, bytes, 0, communicator_, stream_)));
    ASSERT_TRUE(Started(Receive(to, bytes, 0, communicator_, stream_)));
    ASSERT_TRUE(Started(GroupEnd()));
    ASSERT_EQ(Wait(communicator_), kSuccess);
    ASSERT_EQ(cuda::RecordEvent(done, stream_), 0);
    bool is_done = false;
    while (!is_done) ASSERT_EQ(cuda::QueryEvent(done, &is_done), 0);
    std::vector<unsigned char> received(bytes);
    ASSERT_EQ(cuda::ToHost(received.data(), to, bytes, stream_), 0);
    EXPECT_EQ(received, sent);
    cuda::FreeDevice(from);
    cuda::FreeDevice(to);
  }
  cuda::FreeEvent(done);
}

}  // namespace
}  // namespace m1::nccl
