#include "tools/bench/exchange_bench.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/affinity.h"
#include "common/base/status_macros.h"
#include "common/tensor/tensor.h"
#include "tools/bench/echo_worker.h"
#include "tools/bench/raw_ping_pong.h"

namespace m1 {
namespace {

// Bytes that a repeat sends at most, so that large dispatches take as long as small ones.
constexpr int64_t kRepeatBytes = int64_t{256} << 20;
constexpr int kLeastRounds = 20;

// This process and what it forks.
absl::Status StayOnOneCore() {
  const absl::StatusOr<std::vector<int>> cores = AllowedCores();
  const absl::Status pinned = cores.ok() ? PinThisThread(cores->front()) : cores.status();
  if (pinned.ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot stay on one core: ", pinned.message()));
}

// A batch and its answer.
struct Sample {
  Sample(int64_t num_rows, int64_t hidden)
      : rows(DType::kBf16, {num_rows, hidden}),
        out(DType::kBf16, {num_rows, 1, hidden}),
        expert_ids(static_cast<size_t>(num_rows), 0) {
    std::memset(rows.view().data(), 1, num_bytes());
  }
  size_t num_bytes() { return static_cast<size_t>(rows.view().num_bytes()); }

  Tensor rows;
  Tensor out;
  std::vector<int32_t> expert_ids;
};

// One round trip.
using RoundTrip = std::function<absl::Status(Sample&)>;

struct Way {
  std::string name;
  std::string raw;
  RoundTrip round_trip;
};

RoundTrip ByExchange(RemoteExchange* exchange) {
  return [exchange](Sample& sample) {
    M1_RETURN_IF_ERROR(exchange->Dispatch({.experts_per_row = 1,
                                           .rows = sample.rows.view(),
                                           .expert_ids = sample.expert_ids,
                                           .out = sample.out.view()}));
    return exchange->Combine(0);
  };
}

RoundTrip ByEcho(EchoProcess* echo) {
  return [echo](Sample& sample) {
    const size_t size = sample.num_bytes();
    echo->RoundTrip({static_cast<const std::byte*>(sample.rows.view().data()), size},
                    {static_cast<std::byte*>(sample.out.view().data()), size});
    return absl::OkStatus();
  };
}

// The element below which `part` of the values lie.
double Quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

// Of each repeat.
struct Times {
  std::vector<double> p50_s;
  std::vector<double> p99_s;
};

absl::Status Repeat(const Way& way, int num_rounds, Sample& sample, Times* times) {
  std::vector<double> seconds;
  for (int round = 0; round < num_rounds; ++round) {
    const absl::Time start = absl::Now();
    M1_RETURN_IF_ERROR(way.round_trip(sample));
    // The first ones wake what slept while another way had its turn.
    if (round >= num_rounds / 10) seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
  }
  times->p50_s.push_back(Quantile(seconds, 0.5));
  times->p99_s.push_back(Quantile(seconds, 0.99));
  return absl::OkStatus();
}

absl::Status RunRows(const ExchangeBenchOptions& options, const std::vector<Way>& ways,
                     int64_t num_rows,
                     const std::function<void(const ExchangeFigure&)>& on_figure) {
  Sample sample(num_rows, options.hidden_size);
  const auto num_bytes = static_cast<int64_t>(sample.num_bytes());
  const int64_t affordable = std::max<int64_t>(kLeastRounds, kRepeatBytes / num_bytes);
  const int num_rounds = static_cast<int>(std::min<int64_t>(options.num_rounds, affordable));
  std::map<std::string, Times> times;
  for (int repeat = 0; repeat < options.num_repeats; ++repeat) {
    for (const Way& way : ways) {
      M1_RETURN_IF_ERROR(Repeat(way, num_rounds, sample, &times[way.name]));
    }
  }
  for (const Way& way : ways) {
    ExchangeFigure figure = {.way = way.name, .raw = way.raw, .rows = num_rows, .bytes = num_bytes};
    figure.p50_s = Quantile(times[way.name].p50_s, 0.5);
    figure.p99_s = Quantile(times[way.name].p99_s, 0.5);
    if (!way.raw.empty()) figure.ratio = figure.p50_s / Quantile(times[way.raw].p50_s, 0.5);
    on_figure(figure);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchExchangeWays(const ExchangeBenchOptions& options,
                               const std::function<void(const ExchangeFigure&)>& on_figure) {
  const int64_t most_rows = *std::max_element(options.rows.begin(), options.rows.end());
  const auto max_bytes = static_cast<size_t>(most_rows * options.hidden_size * 2);
  if (options.one_core) M1_RETURN_IF_ERROR(StayOnOneCore());
  FutexEcho futex(max_bytes);
  SocketEcho socket(max_bytes);
  futex.Start();
  socket.Start();
  EchoWorkerOptions worker = {.hidden_size = options.hidden_size,
                              .max_rows = static_cast<int32_t>(most_rows),
                              .address = absl::StrCat("unix:", options.directory, "/shm"),
                              .spin = options.spin};
  // One each: a worker with two clients waits for the dispatches of both.
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<EchoWorker> shm_worker, EchoWorker::Start(worker));
  worker.address = absl::StrCat("unix:", options.directory, "/grpc");
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<EchoWorker> grpc_worker, EchoWorker::Start(worker));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<RemoteExchange> shm, shm_worker->Connect(true));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<RemoteExchange> grpc, grpc_worker->Connect(false));
  const std::vector<Way> ways = {{"raw_futex", "", ByEcho(&futex)},
                                 {"shm", "raw_futex", ByExchange(shm.get())},
                                 {"raw_socket", "", ByEcho(&socket)},
                                 {"grpc", "raw_socket", ByExchange(grpc.get())}};
  for (const int64_t num_rows : options.rows) {
    M1_RETURN_IF_ERROR(RunRows(options, ways, num_rows, on_figure));
  }
  return absl::OkStatus();
}

}  // namespace m1
