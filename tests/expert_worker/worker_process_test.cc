// The real binary on the embedded checkpoint: started late, killed, stopped, ended.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "common/exchange/inproc_exchange.h"
#include "common/model/checkpoint.h"
#include "common/rpc/remote_exchange.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr char kModel[] = "models/tiny";

// One m1-expert-worker; killed at the end.
class WorkerProcess {
 public:
  WorkerProcess(std::vector<std::string> flags, int port) {
    flags.insert(flags.begin(), M1_EXPERT_WORKER_BINARY);
    flags.push_back(absl::StrCat("--port=", port));
    std::vector<char*> words;
    for (std::string& flag : flags) words.push_back(flag.data());
    words.push_back(nullptr);
    int ends[2] = {};
    M1_CHECK(pipe(ends) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      execv(words[0], words.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~WorkerProcess() {
    if (pid_ > 0) Signal(SIGKILL), Wait();
    fclose(output_);
  }

  // "127.0.0.1:PORT", from the line that says so.
  std::string WaitListening() {
    char line[256] = {};
    if (fgets(line, sizeof(line), output_) == nullptr) return "";
    absl::string_view rest = line;
    M1_CHECK(absl::ConsumePrefix(&rest, "listening "));
    return std::string(absl::StripSuffix(rest, "\n"));
  }
  void Signal(int signal) { kill(pid_, signal); }
  // The exit code; negative: the signal that ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
  FILE* output_ = nullptr;
};

int PortOf(const std::string& address) { return std::stoi(address.substr(address.rfind(':') + 1)); }

class WorkerProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(checkpoint_, Checkpoint::Open(kModel));
    shape_ = ShapeOf(checkpoint_->config());
  }

  std::unique_ptr<WorkerProcess> Start(const std::string& flag, int port = 0) {
    const std::vector<std::string> flags = {absl::StrCat("--model=", kModel), flag, "--threads=1",
                                            "--log_level=error"};
    return std::make_unique<WorkerProcess>(flags, port);
  }

  std::unique_ptr<RemoteExchange> Connect(const std::vector<std::string>& addresses,
                                          absl::Duration exchange_timeout = absl::Seconds(10)) {
    RemoteExchangeOptions options;
    options.addresses = addresses;
    options.peer.identity = {
        checkpoint_->fingerprint(), checkpoint_->weight_format(), "bf16", "cpu", kNumericsRevision,
        kProtocolRevision};
    options.peer.num_experts = shape_.num_experts;
    options.peer.hidden_size = shape_.hidden_size;
    options.peer.exchange_timeout = exchange_timeout;
    auto exchange = RemoteExchange::Create(options);
    M1_CHECK(exchange.ok());
    return *std::move(exchange);
  }

  // The batch's rows through all experts by the plain loops in this process.
  std::vector<std::byte> Expected(uint32_t seed) {
    std::vector<int32_t> all(static_cast<size_t>(shape_.num_experts));
    for (int32_t i = 0; i < shape_.num_experts; ++i) all[static_cast<size_t>(i)] = i;
    const auto backend = CreateReferenceBackend();
    DeviceWeights weights(backend.get());
    auto store = ExpertStore::Open(*checkpoint_, all, &weights);
    M1_CHECK(store.ok());
    ExpertFfn executor(&*store, backend.get(), DType::kBf16);
    InprocExchange exchange(shape_.num_experts, {&executor});
    return Run(&exchange, seed);
  }

  std::vector<std::byte> Run(ExpertExchange* exchange, uint32_t seed) {
    RandomBatch batch(shape_, DType::kBf16, 40, seed);
    EXPECT_OK(exchange->Dispatch(batch.batch()));
    EXPECT_OK(exchange->Combine(0));
    return batch.out_bytes();
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  ExpertModelShape shape_;
};

TEST_F(WorkerProcessTest, TwoProcessesEqualThePlainLoopsAndEndCleanly) {
  const auto first = Start("--shard=0/2");
  const auto second = Start("--shard=1/2");
  const auto exchange = Connect({first->WaitListening(), second->WaitListening()});
  for (uint32_t seed = 1; seed <= 3; ++seed) EXPECT_EQ(Run(exchange.get(), seed), Expected(seed));
  first->Signal(SIGTERM);
  second->Signal(SIGINT);
  EXPECT_EQ(first->Wait(), 0);
  EXPECT_EQ(second->Wait(), 0);
}

TEST_F(WorkerProcessTest, KilledAndStartedAgainGivesTheSameBytes) {
  auto first = Start("--experts=0-10");
  const auto second = Start("--experts=11-31");
  const std::string first_address = first->WaitListening();
  const auto exchange = Connect({first_address, second->WaitListening()});
  EXPECT_EQ(Run(exchange.get(), 1), Expected(1));
  first->Signal(SIGKILL);
  EXPECT_EQ(first->Wait(), -SIGKILL);
  std::thread restarter([&] { first = Start("--experts=0-10", PortOf(first_address)); });
  EXPECT_EQ(Run(exchange.get(), 2), Expected(2));
  restarter.join();
}

TEST_F(WorkerProcessTest, StoppedProcessIsLostAndTakenBack) {
  const auto worker = Start("--shard=0/1");
  const auto exchange = Connect({worker->WaitListening()}, absl::Milliseconds(200));
  EXPECT_EQ(Run(exchange.get(), 1), Expected(1));
  worker->Signal(SIGSTOP);
  std::thread waker([&] {
    while (exchange->Peers()[0].connected) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_THAT(exchange->Peers()[0].last_error, testing::HasSubstr("no answer for 200ms"));
    worker->Signal(SIGCONT);
  });
  EXPECT_EQ(Run(exchange.get(), 2), Expected(2));
  waker.join();
}

TEST_F(WorkerProcessTest, ExitCodesNameWhoIsToBlame) {
  EXPECT_EQ(Start("--experts=32")->Wait(), 2);
  EXPECT_EQ(Start("--no_such_flag")->Wait(), 2);
  EXPECT_EQ(Start("--model=tests/no_such_directory")->Wait(), 3);
}

}  // namespace
}  // namespace m1
