// What counting costs: nanoseconds of CPU for each call on a hot path, and what that makes of a
// step.
//
//   metrics_bench [LAYERS STEP_MS]
//
// One thread, which is where the engines and the dispatcher count, too. The step is a decode step
// of one row: the shortest there is, with as many calls as the longest. LAYERS and STEP_MS are
// those of the embedded model on two cores unless given: m1_attention_step_seconds of a cluster
// says the latter.
#include <time.h>

#include <cstdio>
#include <cstdlib>

#include "absl/functional/function_ref.h"

#include "attention_worker/step_metrics.h"
#include "attention_worker/worker_metrics.h"
#include "router/grpc_metrics.h"

namespace m1 {
namespace {

constexpr int kCalls = 1'000'000;

double CpuNanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

// Of one call; printed.
double Nanoseconds(const char* name, absl::FunctionRef<void()> call) {
  for (int i = 0; i < kCalls / 10; ++i) call();
  const double begin = CpuNanoseconds();
  for (int i = 0; i < kCalls; ++i) call();
  const double nanoseconds = (CpuNanoseconds() - begin) / kCalls;
  std::printf("%-44s %7.1f ns\n", name, nanoseconds);
  return nanoseconds;
}

void Print(const char* name, double nanoseconds, double step_ms) {
  std::printf("%-44s %7.2f us, %.3f %% of %.2f ms\n", name, nanoseconds / 1e3,
              nanoseconds / step_ms / 1e4, step_ms);
}

void Run(int layers, double step_ms) {
  MetricsRegistry registry;
  StepMetrics steps(&registry, nullptr);
  ExchangeLatency latency(&registry);
  RouterMetrics router(&registry);
  const std::string address = "expert-worker-0.expert-worker:50053";

  const double span = Nanoseconds("attention worker: span of a layer", [&] {
    const ScopedSpan scoped(&steps, {.name = "attention", .layer = 1});
  });
  const double step = Nanoseconds("attention worker: end of a step", [&] {
    const ScopedSpan scoped(&steps, {.name = "step", .rows = 1});
  });
  const double answer = Nanoseconds("attention worker: answer of an expert worker",
                                    [&] { latency.OnAnswer(address, absl::Milliseconds(1)); });
  const double token =
      Nanoseconds("router: token", [&] { router.OnMoreTokens(absl::Milliseconds(20), 1); });
  const double call = Nanoseconds("router: end of a call", [&] {
    router.OnCallEnd("ipv4:10.1.2.3", absl::OkStatus(), v1::FINISH_REASON_STOP, absl::Seconds(1));
  });

  // Spans of a layer: attention, gate, wait, combine. Two expert workers answer in each; their own
  // counting, two spans a run, is less.
  std::printf("\na decode step of one row, %d layers, 2 expert workers\n", layers);
  Print("attention worker", layers * (4 * span + 2 * answer) + 2 * span + step, step_ms);
  Print("router, a token", token, step_ms);
  Print("router, a call of 100 tokens", call + 100 * token, 100 * step_ms);
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  const int layers = argc > 1 ? std::atoi(argv[1]) : 8;
  const double step_ms = argc > 2 ? std::atof(argv[2]) : 1.0;
  m1::Run(layers, step_ms);
  return 0;
}
