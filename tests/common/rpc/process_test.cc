#include "common/rpc/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

// Runs `body` in a child of its own and returns the child's exit code.
template <typename Body>
int ExitCodeOfChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(ProcessTest, ExitCodesFollowTheStatus) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("--port")), 2);
  EXPECT_EQ(ExitCodeFor(absl::DataLossError("truncated")), 3);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("no such file")), 3);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("bug")), 1);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("gone")), 1);
}

TEST(ProcessTest, RefusesAnUnknownLogLevel) {
  EXPECT_EQ(ExitCodeOfChild([] { _exit(ExitCodeFor(InitProcess("loud"))); }), 2);
}

TEST(ProcessTest, BadFlagsEndWithTwoAndHelpWithZero) {
  const auto parse = [](const char* word) {
    return ExitCodeOfChild([word] {
      // The messages go nowhere.
      if (freopen("/dev/null", "w", stdout) == nullptr ||
          freopen("/dev/null", "w", stderr) == nullptr) {
        _exit(98);
      }
      char* words[] = {const_cast<char*>("test"), const_cast<char*>(word), nullptr};
      ParseFlags(word == nullptr ? 1 : 2, words);
      exit(5);
    });
  };
  EXPECT_EQ(parse("--no_such_flag=1"), 2);
  EXPECT_EQ(parse("word"), 2);
  EXPECT_EQ(parse("--help"), 0);
  EXPECT_EQ(parse(nullptr), 5);
}

TEST(ProcessTest, SeesASignalThatWaits) {
  EXPECT_EQ(ExitCodeOfChild([] {
              if (!InitProcess("error").ok() || TerminationRequested()) _exit(98);
              kill(getpid(), SIGTERM);
              _exit(TerminationRequested() ? 0 : 97);
            }),
            0);
}

TEST(ProcessTest, WorkCancelledByASignalIsAnOrderlyEnd) {
  EXPECT_EQ(ExitCodeOfChild([] {
              if (!InitProcess("error").ok()) _exit(98);
              if (ExitWith(absl::CancelledError("by somebody else")) != 1) _exit(97);
              kill(getpid(), SIGTERM);
              if (ExitWith(absl::InternalError("a bug")) != 1) _exit(96);
              _exit(ExitWith(absl::CancelledError("loading was stopped")));
            }),
            0);
}

TEST(ProcessTest, TakesASignalThatCameBeforeTheWait) {
  EXPECT_EQ(ExitCodeOfChild([] {
              if (!InitProcess("error").ok()) _exit(98);
              kill(getpid(), SIGTERM);
              _exit(WaitForTerminationSignal() == SIGTERM ? 0 : 97);
            }),
            0);
}

TEST(ProcessTest, SecondSignalEndsAtOnce) {
  EXPECT_EQ(ExitCodeOfChild([] {
              if (!InitProcess("error").ok()) _exit(98);
              kill(getpid(), SIGINT);
              if (WaitForTerminationSignal() != SIGINT) _exit(97);
              kill(getpid(), SIGTERM);
              pause();
            }),
            1);
}

}  // namespace
}  // namespace m1
