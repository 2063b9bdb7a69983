#include "tools/m1/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

// A folder with shell scripts in place of the servers. Each prints a fixed port (or the one it is
// given), notes its start with its arguments in a file, and waits.
class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("supervisor_", getpid());
    std::filesystem::create_directories(folder_);
    Script("m1-expert-worker", "7001");
    Script("m1-attention-worker", "7002");
    Script("m1-router", "7003");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_ / name;
    std::ofstream(path) << text;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  void Script(const std::string& name, const std::string& port) {
    Write(name, absl::StrCat("#!/bin/sh\necho \"$$ $*\" >> ", folder_.string(), "/", name,
                             ".starts\n", "echo listening 127.0.0.1:", port, "\nexec sleep 600\n"));
  }
  std::vector<std::string> Starts(const std::string& name) {
    std::ifstream file(folder_ / absl::StrCat(name, ".starts"));
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  // Steps until `done` or a minute has passed.
  template <typename Done>
  absl::Status StepUntil(Supervisor* supervisor, const Done& done) {
    const absl::Time end = absl::Now() + absl::Minutes(1);
    while (!done() && absl::Now() < end) {
      if (absl::Status status = supervisor->Step(absl::Now()); !status.ok()) return status;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return done() ? absl::OkStatus() : absl::DeadlineExceededError("not within a minute");
  }
  static void Stop(Supervisor* supervisor) {
    supervisor->StopAll(absl::Minutes(1), [] { return false; });
  }

  std::filesystem::path folder_;
};

TEST_F(SupervisorTest, StartsInOrderAndTellsAddresses) {
  Supervisor supervisor(UpOptions(), folder_.string());
  const absl::Status status =
      StepUntil(&supervisor, [&] { return !supervisor.router_address().empty(); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(supervisor.router_address(), "127.0.0.1:7003");
  EXPECT_EQ(Starts("m1-expert-worker").size(), 2u);
  ASSERT_EQ(Starts("m1-attention-worker").size(), 1u);
  EXPECT_THAT(Starts("m1-attention-worker")[0],
              HasSubstr("--expert_workers=shm:127.0.0.1:7001,shm:127.0.0.1:7001"));
  ASSERT_EQ(Starts("m1-router").size(), 1u);
  EXPECT_THAT(Starts("m1-router")[0], HasSubstr("--attention_workers=127.0.0.1:7002"));
  Stop(&supervisor);
}

TEST_F(SupervisorTest, StartsADeadProcessAgainOnItsPort) {
  Supervisor supervisor(UpOptions(), folder_.string());
  ASSERT_TRUE(StepUntil(&supervisor, [&] { return !supervisor.router_address().empty(); }).ok());
  EXPECT_THAT(Starts("m1-attention-worker")[0], HasSubstr("--port=0"));
  ASSERT_EQ(kill(std::stoi(Starts("m1-attention-worker")[0]), SIGKILL), 0);
  const absl::Status status =
      StepUntil(&supervisor, [&] { return Starts("m1-attention-worker").size() == 2; });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Starts("m1-attention-worker")[1], HasSubstr("--port=7002"));
  EXPECT_EQ(Starts("m1-router").size(), 1u);
  Stop(&supervisor);
}

TEST_F(SupervisorTest, StopsAllChildren) {
  Supervisor supervisor(UpOptions(), folder_.string());
  ASSERT_TRUE(StepUntil(&supervisor, [&] { return !supervisor.router_address().empty(); }).ok());
  Stop(&supervisor);
  for (const char* name : {"m1-expert-worker", "m1-attention-worker", "m1-router"}) {
    for (const std::string& start : Starts(name)) EXPECT_NE(kill(std::stoi(start), 0), 0) << name;
  }
}

TEST_F(SupervisorTest, ProcessThatNeverListenedIsAnError) {
  Write("m1-expert-worker", "#!/bin/sh\nexit 3\n");
  Supervisor supervisor(UpOptions(), folder_.string());
  const absl::Status status = StepUntil(&supervisor, [] { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expert worker"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("exit code 3"));
  Stop(&supervisor);
}

TEST_F(SupervisorTest, MissingExecutableIsAnError) {
  std::filesystem::remove(folder_ / "m1-expert-worker");
  Supervisor supervisor(UpOptions(), folder_.string());
  EXPECT_EQ(supervisor.Step(absl::Now()).code(), absl::StatusCode::kNotFound);
}

TEST(RestartPolicyTest, BacksOffAndForgetsAfterAStableRun) {
  RestartPolicy policy;
  EXPECT_EQ(policy.DelayAfterDeath(absl::Seconds(1)), absl::Milliseconds(500));
  EXPECT_EQ(policy.DelayAfterDeath(absl::Seconds(1)), absl::Seconds(1));
  for (int i = 0; i < 10; ++i) policy.DelayAfterDeath(absl::ZeroDuration());
  EXPECT_EQ(policy.DelayAfterDeath(absl::Seconds(1)), absl::Seconds(10));
  EXPECT_EQ(policy.DelayAfterDeath(absl::Seconds(30)), absl::Milliseconds(500));
}

}  // namespace
}  // namespace m1
