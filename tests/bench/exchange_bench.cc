// Round trip of one dispatch between two processes: the transport's cost, without expert
// arithmetic, beside raw ping-pongs of the same bytes in the same run.
//
//   exchange_bench [--transport both|shm|grpc] [--rows 1,4,16,64] [--hidden 1024] [--rounds 2000]
//                  [--repeats 5] [--pause_us 0] [--spin_us 0] [--address unix:PATH|127.0.0.1]
//
// Rows are bf16, one expert each, so one row of 1024 is 2 KB there and back. Prints the median over
// the repeats, which take turns, of the p50 of a round trip in microseconds, and the ratios of shm
// to the raw futex and of gRPC to the raw unix socket. --pause_us computes that long between round
// trips, as attention would.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/rpc/process.h"
#include "common/rpc/remote_exchange.h"
#include "common/rpc/server_runner.h"
#include "common/tensor/tensor.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "expert_worker/shm_source.h"
#include "tests/bench/raw_ping_pong.h"

ABSL_FLAG(std::string, transport, "both", "shm, grpc or both");
ABSL_FLAG(std::string, rows, "1,4,16,64", "rows of a dispatch, comma-separated");
ABSL_FLAG(int, hidden, 1024, "elements of a row, bf16");
ABSL_FLAG(int, rounds, 2000, "round trips of a repeat");
ABSL_FLAG(int, repeats, 5, "repeats; transports take turns");
ABSL_FLAG(int, pause_us, 0, "time between round trips, as attention would take");
ABSL_FLAG(int, spin_us, 0, "of both ends of shm, before they sleep");
ABSL_FLAG(std::string, address, "", "where the worker listens; empty: a unix socket");

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
[[noreturn]] void RunWorker(int pipe_end, const std::string& address) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  EchoExecutor executor;
  ExchangeServiceOptions options;
  options.identity = kIdentity;
  options.limits.shape = {1, 1, absl::GetFlag(FLAGS_hidden), 1};
  auto source = ShmSource::Create(options.limits, &executor);
  M1_CHECK(source.ok());
  options.shared_memory = (*source)->offer();
  EngineOptions engine_options;
  engine_options.spin = absl::Microseconds(absl::GetFlag(FLAGS_spin_us));
  Engine engine(&executor, engine_options, source->get());
  ExchangeService service(options, &executor, &engine);
  ServerOptions server;
  server.address = address;
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

std::unique_ptr<RemoteExchange> Connect(const std::string& address) {
  RemoteExchangeOptions options;
  options.addresses = {address};
  options.peer.identity = kIdentity;
  options.peer.num_experts = 1;
  options.spin = absl::Microseconds(absl::GetFlag(FLAGS_spin_us));
  auto exchange = RemoteExchange::Create(options);
  M1_CHECK(exchange.ok());
  while (!(*exchange)->MissingExperts().empty()) absl::SleepFor(absl::Milliseconds(1));
  M1_CHECK((*exchange)->Peers()[0].address == address);
  return *std::move(exchange);
}

// A batch and its answer, and their bytes.
struct Sample {
  explicit Sample(int64_t num_rows)
      : rows(DType::kBf16, {num_rows, absl::GetFlag(FLAGS_hidden)}),
        out(DType::kBf16, {num_rows, 1, absl::GetFlag(FLAGS_hidden)}),
        expert_ids(static_cast<size_t>(num_rows), 0) {
    std::memset(rows.view().data(), 0, num_bytes());
  }
  size_t num_bytes() { return static_cast<size_t>(rows.view().num_bytes()); }

  Tensor rows;
  Tensor out;
  std::vector<int32_t> expert_ids;
};

// Returns after one round trip.
using Way = std::function<void(Sample&)>;

Way ByExchange(RemoteExchange* exchange) {
  return [exchange](Sample& sample) {
    const DispatchBatch batch = {0, 1, sample.rows.view(), sample.expert_ids, sample.out.view()};
    M1_CHECK(exchange->Dispatch(batch).ok());
    M1_CHECK(exchange->Combine().ok());
  };
}

Way ByEcho(EchoProcess* echo) {
  return [echo](Sample& sample) {
    const size_t size = sample.num_bytes();
    echo->RoundTrip({static_cast<const std::byte*>(sample.rows.view().data()), size},
                    {static_cast<std::byte*>(sample.out.view().data()), size});
  };
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double MedianRoundTripUs(const Way& way, Sample& sample) {
  const absl::Duration pause = absl::Microseconds(absl::GetFlag(FLAGS_pause_us));
  const int num_rounds = absl::GetFlag(FLAGS_rounds);
  std::vector<double> times_us;
  for (int round = 0; round < num_rounds; ++round) {
    for (const absl::Time until = absl::Now() + pause; absl::Now() < until;) {
    }
    const absl::Time start = absl::Now();
    way(sample);
    if (round >= num_rounds / 10) {
      times_us.push_back(absl::ToDoubleMicroseconds(absl::Now() - start));
    }
  }
  return Median(std::move(times_us));
}

void PrintRatios(const std::map<std::string, Way>& ways, int64_t num_rows) {
  Sample sample(num_rows);
  std::map<std::string, std::vector<double>> times_us;
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    for (const auto& [name, way] : ways) times_us[name].push_back(MedianRoundTripUs(way, sample));
  }
  std::printf("%4lld rows, %7zu bytes each way:", static_cast<long long>(num_rows),
              sample.num_bytes());
  for (const auto& [name, times] : times_us)
    std::printf("  %s %.1f us", name.c_str(), Median(times));
  const auto ratio = [&](const char* name, const char* to) {
    if (!times_us.contains(name)) return;
    std::printf("  %s/%s %.2f", name, to, Median(times_us[name]) / Median(times_us[to]));
  };
  ratio("shm", "raw_futex");
  ratio("grpc", "raw_socket");
  std::printf("\n");
}

std::vector<int64_t> RowCounts() {
  std::vector<int64_t> counts;
  for (absl::string_view text : absl::StrSplit(absl::GetFlag(FLAGS_rows), ',')) {
    int64_t count = 0;
    M1_CHECK(absl::SimpleAtoi(text, &count) && count > 0);
    counts.push_back(count);
  }
  return counts;
}

int Main() {
  SetLogLevel(LogLevel::kError);
  const std::vector<int64_t> row_counts = RowCounts();
  const int64_t most = *std::max_element(row_counts.begin(), row_counts.end());
  const size_t max_bytes = static_cast<size_t>(most * absl::GetFlag(FLAGS_hidden) * 2);
  const std::string transport = absl::GetFlag(FLAGS_transport);
  const std::string path = absl::StrCat("/tmp/m1_exchange_bench_", getpid());
  const std::string address = absl::GetFlag(FLAGS_address).empty() ? absl::StrCat("unix:", path)
                                                                   : absl::GetFlag(FLAGS_address);
  // Before gRPC starts any thread.
  FutexEcho futex(max_bytes);
  SocketEcho socket(max_bytes);
  futex.Start();
  socket.Start();
  int pipe_ends[2] = {};
  M1_CHECK(pipe(pipe_ends) == 0);
  const pid_t worker = fork();
  if (worker == 0) RunWorker(pipe_ends[1], address);
  char target[256] = {};
  M1_CHECK(read(pipe_ends[0], target, sizeof(target) - 1) > 0);

  std::map<std::string, Way> ways;
  std::unique_ptr<RemoteExchange> shm;
  std::unique_ptr<RemoteExchange> grpc;
  if (transport != "grpc") {
    shm = Connect(absl::StrCat("shm:", target));
    ways = {{"shm", ByExchange(shm.get())}, {"raw_futex", ByEcho(&futex)}};
  }
  if (transport != "shm") {
    grpc = Connect(target);
    ways["grpc"] = ByExchange(grpc.get());
    ways["raw_socket"] = ByEcho(&socket);
  }
  for (const int64_t num_rows : row_counts) PrintRatios(ways, num_rows);
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, 0);
  unlink(path.c_str());
  return 0;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  m1::ParseFlags(argc, argv);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return m1::Main();
}
