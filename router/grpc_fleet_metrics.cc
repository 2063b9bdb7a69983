#include "router/grpc_fleet_metrics.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/metrics/capped_metrics.h"

namespace m1 {
namespace {

constexpr size_t kMaxWorkersInReason = 3;

// One sample for each worker there is; what `fold` makes of those beyond kMaxLabelValues.
template <typename Value>
ScrapedMetrics::Read PerWorker(const std::shared_ptr<const RouterView>& view, Fold fold,
                               Value value) {
  return [view, fold, value] {
    std::vector<LabelledValue> values;
    for (size_t i = 0; i < view->addresses.size(); ++i) {
      if (view->addresses[i].empty()) continue;
      values.push_back({view->addresses[i], static_cast<double>(value(view->snapshot.workers[i]))});
    }
    return CapSamples("worker", values, fold);
  };
}

std::vector<MetricSample> ModelInfo(const RouterView& view) {
  const std::optional<FleetIdentity>& identity = view.snapshot.identity;
  if (!identity) return {};
  return {{{{"fingerprint", identity->fingerprint},
            {"weight_format", identity->weight_format},
            {"activation_dtype", identity->activation_dtype},
            {"numerics_revision", std::to_string(identity->numerics_revision)}},
           1}};
}

std::vector<MetricSample> Replays(const RouterView& view) {
  return {{{{"reason", "preempted"}}, static_cast<double>(view.snapshot.num_preempted)},
          {{{"reason", "worker_lost"}}, static_cast<double>(view.snapshot.num_lost)}};
}

std::string WhyNotReady(const RouterView& view) {
  if (view.snapshot.is_draining) return "draining";
  std::vector<std::string> workers;
  size_t num_workers = 0;
  for (size_t i = 0; i < view.addresses.size(); ++i) {
    if (view.addresses[i].empty()) continue;
    const WorkerSnapshot& worker = view.snapshot.workers[i];
    if (worker.is_ready) return "about to serve";
    if (++num_workers > kMaxWorkersInReason) continue;
    const std::string& error = worker.last_error;
    // The text of an error comes from elsewhere: a label is a line.
    workers.push_back(LabelValue(
        absl::StrCat(view.addresses[i], ": ", error.empty() ? "takes no requests now" : error)));
  }
  if (num_workers == 0) return "no attention worker is known";
  return absl::StrCat("no attention worker of ", num_workers,
                      " is ready: ", absl::StrJoin(workers, "; "),
                      num_workers > kMaxWorkersInReason ? "; ..." : "");
}

void AddWorkers(ScrapedMetrics* metrics, const std::shared_ptr<const RouterView>& view) {
  metrics->AddGauges(
      "m1_router_worker_ready", "1 while the attention worker takes requests.",
      PerWorker(view, Fold::kMin, [](const WorkerSnapshot& w) { return w.is_ready; }));
  metrics->AddGauges(
      "m1_router_worker_mismatch",
      "1 while the attention worker is refused: its model or numerics differ from the fleet's.",
      PerWorker(view, Fold::kMax, [](const WorkerSnapshot& w) { return w.is_mismatched; }));
  metrics->AddGauges(
      "m1_router_worker_sequences", "Samples that run on the attention worker.",
      PerWorker(view, Fold::kSum, [](const WorkerSnapshot& w) { return w.num_sequences; }));
}

}  // namespace

std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             std::function<RouterView()> look) {
  auto metrics = std::make_unique<ScrapedMetrics>(registry);
  const auto view = std::make_shared<RouterView>();  // owned by what reads it
  metrics->BeforeEach([view, look] { *view = look(); });
  metrics->WhyNotReady([look] { return WhyNotReady(look()); });
  const auto of = [view](auto member) {
    return [view, member] { return static_cast<double>(view->snapshot.*member); };
  };
  metrics->AddGauges("m1_model_info", "1; what the fleet serves, in its labels.",
                     [view] { return ModelInfo(*view); });
  metrics->AddGauge("m1_router_requests_queued", "Requests that wait for a worker.",
                    of(&RouterSnapshot::num_queued));
  metrics->AddGauge("m1_router_queue_limit", "Requests that may wait; more are refused.",
                    of(&RouterSnapshot::queue_capacity));
  metrics->AddGauge("m1_router_requests_in_flight",
                    "Samples that are accepted and not ended, waiting ones among them.",
                    of(&RouterSnapshot::num_in_flight));
  metrics->AddCounters("m1_router_replays_total",
                       "Samples taken off a worker that will be computed again, by why.",
                       [view] { return Replays(*view); });
  metrics->AddCounter("m1_router_worker_disconnects_total", "Connections to ready workers lost.",
                      of(&RouterSnapshot::num_disconnects));
  AddWorkers(metrics.get(), view);
  metrics->Publish();
  return metrics;
}

std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             const Dispatcher* dispatcher,
                                             const WorkerFleet* fleet) {
  return ScrapeRouter(registry, [dispatcher, fleet] {
    RouterView view;
    for (const std::shared_ptr<WorkerStream>& stream : fleet->streams()) {
      view.addresses.push_back(stream == nullptr ? "" : stream->address());
    }
    view.snapshot = dispatcher->Snapshot();
    return view;
  });
}

}  // namespace m1
