#include "attention_worker/worker_metrics.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/model/placement.h"

namespace m1 {
namespace {

// One sample for each expert worker; what `fold` makes of those beyond kMaxLabelValues.
template <typename Value>
ScrapedMetrics::Read PerPeer(const ExpertExchange* exchange, Fold fold, Value value) {
  return [exchange, fold, value] {
    std::vector<LabelledValue> values;
    for (const ExpertPeer& peer : exchange->Peers()) {
      values.push_back({peer.address, static_cast<double>(value(peer))});
    }
    return CapSamples("expert_worker", values, fold);
  };
}

void AddEngine(ScrapedMetrics* metrics, const Engine* engine) {
  const auto stats = std::make_shared<EngineStats>();  // of the scrape that runs
  metrics->BeforeEach([engine, stats] { *stats = engine->stats(); });
  const auto of = [stats](auto member) {
    return [stats, member] { return static_cast<double>((*stats).*member); };
  };
  metrics->AddCounter("m1_attention_prefill_tokens_total",
                      "Tokens computed of prompts and replays.",
                      of(&EngineStats::prefill_token_count));
  metrics->AddCounter("m1_attention_decode_tokens_total",
                      "Tokens computed one a step, after the one before was drawn.",
                      of(&EngineStats::decode_token_count));
  metrics->AddCounter("m1_attention_preemptions_total",
                      "Sequences whose memory was taken for others, or that were handed over.",
                      of(&EngineStats::preemption_count));
  metrics->AddCounter("m1_attention_folds_total",
                      "Chunks of 32 tokens folded into lightning states, per sequence.",
                      of(&EngineStats::fold_count));
  metrics->AddGauge("m1_attention_kv_blocks_used", "KV blocks of 64 tokens in use.",
                    of(&EngineStats::used_kv_blocks));
  metrics->AddGauge("m1_attention_state_slots_used", "State slots in use: resident sequences.",
                    of(&EngineStats::used_sequences));
  metrics->AddGauge(
      "m1_attention_sequences", "Sequences that were started and not ended.",
      [stats] { return static_cast<double>(stats->used_sequences + stats->waiting_sequences); });
  metrics->AddGauge("m1_attention_sequences_waiting",
                    "Sequences that were started and wait for memory.",
                    of(&EngineStats::waiting_sequences));
  metrics->AddGauge("m1_attention_connected_routers", "Routers connected.",
                    of(&EngineStats::client_count));
}

}  // namespace

void AddExchange(ScrapedMetrics* metrics, const ExpertExchange* exchange) {
  const auto add_counters = [&](const char* name, const char* help, auto value) {
    metrics->AddCounters(name, help, PerPeer(exchange, Fold::kSum, value));
  };
  metrics->AddGauges(
      "m1_attention_expert_worker_connected", "1 while the expert worker is connected.",
      PerPeer(exchange, Fold::kMin, [](const ExpertPeer& peer) { return peer.connected; }));
  metrics->AddGauges(
      "m1_attention_expert_worker_mismatch",
      "1 while the expert worker is refused: its model or numerics differ.",
      PerPeer(exchange, Fold::kMax, [](const ExpertPeer& peer) { return peer.mismatched; }));
  add_counters("m1_attention_exchange_sent_bytes_total",
               "Bytes of dispatches sent to the expert worker.",
               [](const ExpertPeer& peer) { return peer.sent_bytes; });
  add_counters("m1_attention_exchange_received_bytes_total",
               "Bytes of answers from the expert worker.",
               [](const ExpertPeer& peer) { return peer.received_bytes; });
  metrics->AddGauge("m1_attention_experts_missing", "Experts that no connected worker hosts.",
                    [exchange] { return static_cast<double>(exchange->MissingExperts().size()); });
}

std::string WhyNotReady(bool is_draining, const std::vector<int32_t>& missing_experts) {
  if (is_draining) return "draining";
  if (missing_experts.empty()) return "about to serve";
  const bool is_one = missing_experts.size() == 1;
  return absl::StrCat(is_one ? "expert " : "experts ", FormatExpertList(missing_experts),
                      is_one ? " has no host" : " have no host");
}

ExchangeLatency::ExchangeLatency(MetricsRegistry* registry, const Clock* clock)
    : histograms_(&registry->Histograms(
                      "m1_attention_exchange_seconds",
                      "From a dispatch to the expert worker to its answer: transport, waiting "
                      "and computing."),
                  {.name = "expert_worker"}, clock == nullptr ? &real_clock_ : clock,
                  SecondsBuckets()) {}

void ExchangeLatency::OnAnswer(const std::string& address, absl::Duration latency) {
  histograms_.With(address, [latency](prometheus::Histogram& histogram) {
    histogram.Observe(absl::ToDoubleSeconds(latency));
  });
}

std::unique_ptr<ScrapedMetrics> ScrapeAttentionWorker(MetricsRegistry* registry,
                                                      const StepLimits& limits,
                                                      const Engine* engine,
                                                      const ExpertExchange* exchange) {
  auto metrics = std::make_unique<ScrapedMetrics>(registry);
  const double kv_blocks = static_cast<double>(limits.kv_blocks);
  const double slots = static_cast<double>(limits.max_sequences);
  metrics->AddGauge("m1_attention_kv_blocks", "KV blocks of 64 tokens there are.",
                    [kv_blocks] { return kv_blocks; });
  metrics->AddGauge("m1_attention_state_slots", "State slots there are: --max_sequences.",
                    [slots] { return slots; });
  AddEngine(metrics.get(), engine);
  AddExchange(metrics.get(), exchange);
  metrics->WhyNotReady([engine, exchange] {
    return WhyNotReady(engine->stats().draining, exchange->MissingExperts());
  });
  metrics->Publish();
  return metrics;
}

}  // namespace m1
