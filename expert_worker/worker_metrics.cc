#include "expert_worker/worker_metrics.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace m1 {

RunMetrics::RunMetrics(MetricsRegistry* registry, TraceSink* next)
    : next_(next),
      batch_rows_(registry->AddHistogram(
          "m1_expert_batch_rows",
          "Rows of a run: those of all dispatches of one layer that were computed together.",
          RowsBuckets())),
      batch_seconds_(registry->AddHistogram("m1_expert_batch_seconds", "Duration of a run.",
                                            SecondsBuckets())),
      gather_seconds_(registry->AddHistogram(
          "m1_expert_gather_seconds",
          "How long a run waited for the dispatches of other attention workers.",
          SecondsBuckets())) {}

void RunMetrics::Add(const TraceSpan& span) {
  const double seconds = absl::ToDoubleSeconds(span.end - span.begin);
  if (span.name == "experts") {
    batch_rows_.Observe(static_cast<double>(span.rows));
    batch_seconds_.Observe(seconds);
  } else if (span.name == "gather") {
    gather_seconds_.Observe(seconds);
  }
  if (next_ != nullptr) next_->Add(span);
}

std::unique_ptr<ScrapedMetrics> ScrapeExpertWorker(MetricsRegistry* registry,
                                                   const ExpertWorkerFigures& figures) {
  auto metrics = std::make_unique<ScrapedMetrics>(registry);
  const Engine* const engine = figures.engine;
  const ExpertFfn* const executor = figures.executor;
  metrics->AddCounters("m1_expert_rows_total", "Rows computed, by layer and expert.", [executor] {
    std::vector<MetricSample> samples;
    for (const ExpertLoad& load : executor->Loads()) {
      samples.push_back(
          {{{"layer", absl::StrCat(load.layer)}, {"expert", absl::StrCat(load.expert)}},
           static_cast<double>(load.num_rows)});
    }
    return samples;
  });
  metrics->AddCounters(
      "m1_expert_compute_seconds_total",
      "Time of runs, shared out among the experts by their rows.", [executor] {
        std::vector<MetricSample> samples;
        for (const auto& [expert, time] : executor->ComputeTimes()) {
          samples.push_back({{{"expert", absl::StrCat(expert)}}, absl::ToDoubleSeconds(time)});
        }
        return samples;
      });
  metrics->AddCounters(
      "m1_expert_dispatches_total", "Dispatches computed, by transport.", [engine] {
        const EngineStats stats = engine->stats();
        return std::vector<MetricSample>{
            {{{"transport", "grpc"}}, static_cast<double>(stats.num_jobs - stats.num_source_jobs)},
            {{{"transport", "shm"}}, static_cast<double>(stats.num_source_jobs)}};
      });
  const auto bytes = static_cast<double>(figures.weight_bytes);
  metrics->AddGauge("m1_expert_weights_bytes", "Bytes of the weights of the hosted experts.",
                    [bytes] { return bytes; });
  const auto hosted = static_cast<double>(executor->hosted_experts().size());
  metrics->AddGauge("m1_expert_hosted_experts", "Experts of each layer that are hosted.",
                    [hosted] { return hosted; });
  metrics->AddGauge("m1_expert_connected_peers", "Attention workers that are connected.",
                    [num_peers = figures.num_peers] { return static_cast<double>(num_peers()); });
  metrics->Publish();
  return metrics;
}

}  // namespace m1
