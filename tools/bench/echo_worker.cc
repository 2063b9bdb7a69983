#include "tools/bench/echo_worker.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/rpc/server_runner.h"
#include "common/shm/shared_memory.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "expert_worker/shm_source.h"

namespace m1 {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(10);
const WorkerIdentity kIdentity = {"bench", "bf16", "bf16", "cpu", 1, kProtocolRevision};

class EchoExecutor final : public ExpertExecutor {
 public:
  const std::vector<int32_t>& hosted_experts() const override { return experts_; }
  absl::Status ValidateJob(const ExpertJob& job) const override {
    if (job.out.num_bytes() == job.rows.num_bytes()) return absl::OkStatus();
    return absl::InvalidArgumentError("an echo wants one pair a row");
  }
  absl::Status Execute(std::span<const ExpertJob> jobs) override {
    for (const ExpertJob& job : jobs) {
      if (job.out.num_bytes() == 0) continue;
      std::memcpy(job.out.data(), job.rows.data(), static_cast<size_t>(job.out.num_bytes()));
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<int32_t> experts_ = {0};
};

// Never returns; writes where it listens to `pipe_end`.
[[noreturn]] void Serve(const EchoWorkerOptions& options, int pipe_end) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  EchoExecutor executor;
  ExchangeServiceOptions service_options;
  service_options.identity = kIdentity;
  service_options.limits.shape = {1, 1, options.hidden_size, 1};
  service_options.limits.max_rows = options.max_rows;
  service_options.limits.max_pairs = options.max_rows;
  const auto source = ShmSource::Create(service_options.limits, &executor);
  if (source.ok()) service_options.shared_memory = (*source)->offer();
  EngineOptions engine_options;
  engine_options.max_run_rows = options.max_rows;
  engine_options.spin = options.spin;
  Engine engine(&executor, engine_options, source.ok() ? source->get() : nullptr);
  ExchangeService service(service_options, &executor, &engine);
  ServerOptions server;
  server.address = options.address;
  server.max_receive_message_bytes = service_options.max_message_bytes();
  server.announce = false;
  const auto runner =
      ServerRunner::Start(server, {service.service()},
                          [&service](grpc::ServerBuilder& builder) { service.AddQueue(builder); });
  if (!runner.ok()) _exit(1);
  service.Start();
  const std::string& target = (*runner)->target();
  if (write(pipe_end, target.data(), target.size()) != static_cast<ssize_t>(target.size())) {
    _exit(1);
  }
  while (true) pause();
}

// What the worker wrote before the deadline; empty when it ended or wrote nothing.
std::string ReadTarget(int pipe_end) {
  pollfd event = {pipe_end, POLLIN, 0};
  std::array<char, 256> target = {};
  if (poll(&event, 1, static_cast<int>(absl::ToInt64Milliseconds(kStartTimeout))) <= 0) return "";
  const ssize_t size = read(pipe_end, target.data(), target.size());
  return size <= 0 ? "" : std::string(target.data(), static_cast<size_t>(size));
}

}  // namespace

absl::StatusOr<std::unique_ptr<EchoWorker>> EchoWorker::Start(const EchoWorkerOptions& options) {
  std::array<int, 2> ends = {};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return absl::UnavailableError("no pipe");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
  if (pid == 0) Serve(options, write_end.get());
  write_end = UniqueFd();
  std::unique_ptr<EchoWorker> worker(new EchoWorker(options, pid, ReadTarget(read_end.get())));
  if (!worker->target_.empty()) return worker;
  return absl::UnavailableError(absl::StrCat("no worker listens at ", options.address));
}

EchoWorker::~EchoWorker() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

absl::StatusOr<std::unique_ptr<RemoteExchange>> EchoWorker::Connect(bool over_shm) const {
  RemoteExchangeOptions exchange_options;
  const std::string address = absl::StrCat(over_shm ? "shm:" : "", target_);
  exchange_options.addresses = {address};
  exchange_options.peer.identity = kIdentity;
  exchange_options.peer.num_experts = 1;
  exchange_options.peer.hidden_size = options_.hidden_size;
  exchange_options.spin = options_.spin;
  M1_ASSIGN_OR_RETURN(std::unique_ptr<RemoteExchange> exchange,
                      RemoteExchange::Create(exchange_options));
  const absl::Time deadline = absl::Now() + kStartTimeout;
  while (!exchange->MissingExperts().empty() && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const std::vector<ExpertPeer> peers = exchange->Peers();
  if (peers.size() == 1 && peers[0].connected && peers[0].address == address) return exchange;
  return absl::UnavailableError(absl::StrCat("the worker is not reached by ", address));
}

}  // namespace m1
