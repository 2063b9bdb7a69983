#include "common/shm/handshake.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr SlotLayout kLayout = {.num_slots = 2, .slot_bytes = 8192};

class HandshakeTest : public testing::Test {
 protected:
  HandshakeTest() : token_(RandomBytes(kShmTokenBytes)) {
    std::array<int, 2> ends = {};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()),
              0);
    client_ = UniqueFd(ends[0]);
    worker_ = UniqueFd(ends[1]);
  }

  static SharedMemory Memory(int64_t num_bytes) {
    auto memory = SharedMemory::Create(num_bytes);
    EXPECT_OK(memory.status());
    return *std::move(memory);
  }
  // What the worker makes of a hello with this memory.
  absl::Status Offer(const SharedMemory& memory, const SlotLayout& layout = kLayout) {
    EXPECT_OK(SendHello(client_.get(), token_, layout, memory, Memory(kDoorbellBytes)));
    return ReceiveHello(worker_.get(), token_).status();
  }

  std::string token_;
  UniqueFd client_;
  UniqueFd worker_;
};

TEST_F(HandshakeTest, BothEndsSeeOneMemory) {
  const SharedMemory memory = Memory(kLayout.num_bytes());
  const SharedMemory client_bell = Memory(kDoorbellBytes);
  const SharedMemory worker_bell = Memory(kDoorbellBytes);
  ASSERT_OK_AND_ASSIGN(auto nothing_yet, ReceiveHello(worker_.get(), token_));
  EXPECT_FALSE(nothing_yet.has_value());
  ASSERT_OK(SendHello(client_.get(), token_, kLayout, memory, client_bell));
  ASSERT_OK_AND_ASSIGN(auto hello, ReceiveHello(worker_.get(), token_));
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->layout.num_slots, 2);
  EXPECT_EQ(hello->layout.slot_bytes, 8192);
  memory.data()[5000] = std::byte{42};
  EXPECT_EQ(hello->memory.data()[5000], std::byte{42});

  ASSERT_OK_AND_ASSIGN(auto no_welcome_yet, ReceiveWelcome(client_.get()));
  EXPECT_FALSE(no_welcome_yet.has_value());
  ASSERT_OK(SendWelcome(worker_.get(), worker_bell));
  ASSERT_OK_AND_ASSIGN(auto bell, ReceiveWelcome(client_.get()));
  ASSERT_TRUE(bell.has_value());
  worker_bell.data()[7] = std::byte{7};
  EXPECT_EQ(bell->data()[7], std::byte{7});
}

TEST_F(HandshakeTest, HangUpIsSeen) {
  EXPECT_FALSE(HungUp(client_.get()));
  worker_ = UniqueFd();
  EXPECT_TRUE(HungUp(client_.get()));
  EXPECT_THAT(ReceiveWelcome(client_.get()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("hung up")));
}

TEST_F(HandshakeTest, RefusalsSayWhy) {
  SendRefusal(worker_.get(), absl::UnavailableError(std::string(1000, 'x')));
  EXPECT_THAT(ReceiveWelcome(client_.get()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("refused: xxx")));
}

TEST_F(HandshakeTest, MemoryThatCouldBeCutIsRefused) {
  const auto refused = [this](const SharedMemory& memory, const char* why) {
    EXPECT_THAT(Offer(memory), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)));
  };
  refused(Memory(kLayout.num_bytes() - 4096), "want 36864");
  refused(Memory(kLayout.num_bytes() + 4096), "want 36864");
  EXPECT_THAT(Offer(Memory(kLayout.num_bytes()), {.num_slots = 9, .slot_bytes = 8192}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num_slots 9")));
  EXPECT_OK(Offer(Memory(kLayout.num_bytes())));
  UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 4096), 0);
  EXPECT_THAT(SharedMemory::Open(UniqueFd(dup(unsealed.get())), 4096),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not sealed")));
  ASSERT_EQ(fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_THAT(SharedMemory::Open(UniqueFd(dup(unsealed.get())), 4096),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not sealed")));
  EXPECT_THAT(SharedMemory::Open(UniqueFd(open("/proc/self/exe", O_RDONLY)), 4096),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a memfd")));
  EXPECT_THAT(SharedMemory::Open(UniqueFd(open("/dev/null", O_RDWR)), 4096),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a memfd")));
}

TEST_F(HandshakeTest, OtherTokensAreRefused) {
  ASSERT_OK(SendHello(client_.get(), std::string(kShmTokenBytes, 'x'), kLayout,
                      Memory(kLayout.num_bytes()), Memory(kDoorbellBytes)));
  EXPECT_THAT(ReceiveHello(worker_.get(), token_),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("token")));
  EXPECT_THAT(SendHello(client_.get(), "short", kLayout, Memory(4096), Memory(4096)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token of 5 bytes")));
}

TEST_F(HandshakeTest, OtherMessagesAreRefusedAndLeakNoDescriptor) {
  for (const size_t size : {1U, 39U, 40U, 41U, 4000U}) {
    const std::string noise(size, '\x5a');
    ASSERT_EQ(send(client_.get(), noise.data(), size, 0), static_cast<ssize_t>(size));
    EXPECT_FALSE(ReceiveHello(worker_.get(), token_).ok()) << size;
    ASSERT_EQ(send(worker_.get(), noise.data(), size, 0), static_cast<ssize_t>(size));
    EXPECT_FALSE(ReceiveWelcome(client_.get()).ok()) << size;
  }
  const int64_t before = NumOpenFds();
  for (int round = 0; round < 20; ++round) {
    EXPECT_FALSE(Offer(Memory(4096)).ok());
    EXPECT_OK(Offer(Memory(kLayout.num_bytes())));
  }
  EXPECT_EQ(NumOpenFds(), before);
}

TEST_F(HandshakeTest, AbstractSocketsAreReachedByNameWhileTheyLive) {
  const std::string name = "m1-test-" + std::to_string(getpid());
  {
    ASSERT_OK_AND_ASSIGN(const UniqueFd listener, ListenAbstract(name));
    EXPECT_FALSE(ListenAbstract(name).ok());
    ASSERT_OK_AND_ASSIGN(const UniqueFd socket, ConnectAbstract(name));
    EXPECT_OK(CheckSameUser(socket.get()));
  }
  EXPECT_THAT(ConnectAbstract(name),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("connect")));
  EXPECT_FALSE(ConnectAbstract("").ok());
  EXPECT_FALSE(ConnectAbstract(std::string(200, 'x')).ok());
}

}  // namespace
}  // namespace m1
