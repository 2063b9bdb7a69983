#include "router/grpc_fleet_metrics.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/metrics/capped_metrics.h"

namespace m1 {
namespace {

// One sample for each worker there is, the first kMaxLabelValues.
template <typename Value>
ScrapedMetrics::Read PerWorker(const Dispatcher* dispatcher, const WorkerFleet* fleet,
                               Value value) {
  return [dispatcher, fleet, value] {
    const std::vector<std::shared_ptr<WorkerStream>> streams = fleet->streams();
    const RouterSnapshot snapshot = dispatcher->Snapshot();  // of these and any that came since
    std::vector<MetricSample> samples;
    for (size_t i = 0; i < streams.size() && samples.size() < kMaxLabelValues; ++i) {
      if (streams[i] == nullptr) continue;
      samples.push_back({{{"worker", LabelValue(streams[i]->address())}},
                         static_cast<double>(value(snapshot.workers[i]))});
    }
    return samples;
  };
}

}  // namespace

std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             const Dispatcher* dispatcher,
                                             const WorkerFleet* fleet) {
  auto metrics = std::make_unique<ScrapedMetrics>(registry);
  const auto of = [dispatcher](auto member) {
    return [dispatcher, member] { return static_cast<double>(dispatcher->Snapshot().*member); };
  };
  metrics->AddGauges("m1_model_info", "1; what the fleet serves, in its labels.", [dispatcher] {
    const std::optional<FleetIdentity> identity = dispatcher->Snapshot().identity;
    if (!identity) return std::vector<MetricSample>();
    return std::vector<MetricSample>{
        {{{"fingerprint", identity->fingerprint},
          {"weight_format", identity->weight_format},
          {"activation_dtype", identity->activation_dtype},
          {"numerics_revision", std::to_string(identity->numerics_revision)}},
         1}};
  });
  metrics->AddGauge("m1_router_requests_queued", "Requests that wait for a worker.",
                    of(&RouterSnapshot::num_queued));
  metrics->AddGauge("m1_router_queue_limit", "Requests that may wait; more are refused.",
                    of(&RouterSnapshot::queue_capacity));
  metrics->AddGauge("m1_router_requests_in_flight",
                    "Samples that are accepted and not ended, waiting ones among them.",
                    of(&RouterSnapshot::num_in_flight));
  metrics->AddCounters("m1_router_replays_total",
                       "Samples taken off a worker that will be computed again, by why.",
                       [dispatcher] {
                         const RouterSnapshot now = dispatcher->Snapshot();
                         return std::vector<MetricSample>{
                             {{{"reason", "preempted"}}, static_cast<double>(now.num_preempted)},
                             {{{"reason", "worker_lost"}}, static_cast<double>(now.num_lost)}};
                       });
  metrics->AddCounter("m1_router_worker_disconnects_total", "Connections to ready workers lost.",
                      of(&RouterSnapshot::num_disconnects));
  metrics->AddGauges(
      "m1_router_worker_ready", "1 while the attention worker takes requests.",
      PerWorker(dispatcher, fleet, [](const WorkerSnapshot& w) { return w.is_ready; }));
  metrics->AddGauges(
      "m1_router_worker_mismatch",
      "1 while the attention worker is refused: its model or numerics differ from the fleet's.",
      PerWorker(dispatcher, fleet, [](const WorkerSnapshot& w) { return w.is_mismatched; }));
  metrics->AddGauges(
      "m1_router_worker_sequences", "Samples that run on the attention worker.",
      PerWorker(dispatcher, fleet, [](const WorkerSnapshot& w) { return w.num_sequences; }));
  metrics->Publish();
  return metrics;
}

}  // namespace m1
