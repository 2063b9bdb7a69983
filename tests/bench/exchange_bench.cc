// Round trip of one dispatch between two processes: the transport's cost, without expert
// arithmetic.
//
//   exchange_bench [--rows 1] [--hidden 6144] [--rounds 5000] [--pause_us 0] [--address
//   127.0.0.1|unix:/tmp/x]
//
// Prints microseconds: p50, p90, p99. Rows are bf16, one expert each, so one row of 6144 is 12 KB
// there and back.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/rpc/grpc_exchange.h"
#include "common/rpc/process.h"
#include "common/rpc/server_runner.h"
#include "common/tensor/tensor.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"

ABSL_FLAG(int, rows, 1, "rows of a dispatch");
ABSL_FLAG(int, hidden, 6144, "elements of a row, bf16");
ABSL_FLAG(int, rounds, 5000, "round trips");
ABSL_FLAG(int, pause_us, 0, "time between round trips, as attention would take");
ABSL_FLAG(std::string, address, "127.0.0.1", "where the worker listens");

namespace m1 {
namespace {

// Answers each pair with its own row.
class EchoExecutor final : public ExpertExecutor {
 public:
  const std::vector<int32_t>& hosted_experts() const override { return experts_; }
  absl::Status ValidateJob(const ExpertJob&) const override { return absl::OkStatus(); }
  absl::Status Execute(std::span<const ExpertJob> jobs) override {
    for (const ExpertJob& job : jobs) {
      if (job.out.num_bytes() > 0) {
        std::memcpy(job.out.data(), job.rows.data(), static_cast<size_t>(job.out.num_bytes()));
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<int32_t> experts_ = {0};
};

const WorkerIdentity kIdentity = {"bench", "bf16", "bf16", "cpu", 1, kProtocolRevision};

// Never returns; writes where it listens to the pipe.
[[noreturn]] void RunWorker(int pipe_end) {
  EchoExecutor executor;
  Engine engine(&executor, {});
  ExchangeServiceOptions options;
  options.identity = kIdentity;
  options.shape = {1, 1, absl::GetFlag(FLAGS_hidden), 1};
  ExchangeService service(options, &executor, &engine);
  ServerOptions server;
  server.address = absl::GetFlag(FLAGS_address);
  server.max_receive_message_bytes = -1;
  server.announce = false;
  auto runner = ServerRunner::Start(server, {service.service()},
                                    [&service](auto& builder) { service.AddQueue(builder); });
  M1_CHECK(runner.ok());
  service.Start();
  const std::string& target = (*runner)->target();
  M1_CHECK(write(pipe_end, target.data(), target.size()) == static_cast<ssize_t>(target.size()));
  while (true) pause();
}

void RunClient(const std::string& target) {
  GrpcExchangeOptions options;
  options.addresses = {target};
  options.peer.identity = kIdentity;
  options.peer.num_experts = 1;
  auto exchange = GrpcExchange::Create(options);
  M1_CHECK(exchange.ok());
  const int64_t num_rows = absl::GetFlag(FLAGS_rows);
  const int64_t hidden = absl::GetFlag(FLAGS_hidden);
  Tensor rows(DType::kBf16, {num_rows, hidden});
  Tensor out(DType::kBf16, {num_rows, 1, hidden});
  const std::vector<int32_t> expert_ids(static_cast<size_t>(num_rows), 0);
  const DispatchBatch batch = {0, 1, rows.view(), expert_ids, out.view()};
  const absl::Duration pause = absl::Microseconds(absl::GetFlag(FLAGS_pause_us));
  std::vector<double> times_us;
  const int num_rounds = absl::GetFlag(FLAGS_rounds);
  for (int round = 0; round < num_rounds; ++round) {
    for (const absl::Time until = absl::Now() + pause; absl::Now() < until;) {
    }
    const absl::Time start = absl::Now();
    M1_CHECK((*exchange)->Dispatch(batch).ok());
    M1_CHECK((*exchange)->Combine().ok());
    if (round >= num_rounds / 10) {
      times_us.push_back(absl::ToDoubleMicroseconds(absl::Now() - start));
    }
  }
  std::sort(times_us.begin(), times_us.end());
  const auto at = [&times_us](double share) {
    return times_us[static_cast<size_t>(share * static_cast<double>(times_us.size() - 1))];
  };
  std::printf("%lld bytes each way: p50 %.1f us, p90 %.1f us, p99 %.1f us\n",
              static_cast<long long>(rows.view().num_bytes()), at(0.5), at(0.9), at(0.99));
}

int Main() {
  int pipe_ends[2] = {};
  M1_CHECK(pipe(pipe_ends) == 0);
  // Before gRPC starts any thread.
  const pid_t worker = fork();
  if (worker == 0) RunWorker(pipe_ends[1]);
  char target[256] = {};
  M1_CHECK(read(pipe_ends[0], target, sizeof(target) - 1) > 0);
  RunClient(target);
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  m1::ParseFlags(argc, argv);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return m1::Main();
}
