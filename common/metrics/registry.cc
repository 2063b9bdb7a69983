#include "common/metrics/registry.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"

namespace m1 {
namespace {

constexpr size_t kMaxLabelBytes = 128;

void Append(std::vector<prometheus::MetricFamily> from, std::vector<prometheus::MetricFamily>* to) {
  std::move(from.begin(), from.end(), std::back_inserter(*to));
}

ScrapedMetrics::Read One(std::function<double()> read) {
  return [read = std::move(read)] { return std::vector<MetricSample>{{{}, read()}}; };
}

}  // namespace

const std::vector<double>& SecondsBuckets() {
  static const std::vector<double>& bounds = *new std::vector<double>{
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
      0.5,    1,       2.5,    5,     10,     30,    60,   120,   300,  600};
  return bounds;
}

const std::vector<double>& RowsBuckets() {
  static const std::vector<double>& bounds =
      *new std::vector<double>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  return bounds;
}

std::string LabelValue(absl::string_view value) {
  std::string label(value.substr(0, kMaxLabelBytes));
  for (char& c : label) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '_';
  }
  return label;
}

MetricsRegistry::MetricsRegistry() : registry_(prometheus::Registry::InsertBehavior::Merge) {}

prometheus::Family<prometheus::Counter>& MetricsRegistry::Counters(const std::string& name,
                                                                   const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Histogram>& MetricsRegistry::Histograms(const std::string& name,
                                                                       const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
}

prometheus::Counter& MetricsRegistry::AddCounter(const std::string& name, const std::string& help,
                                                 const prometheus::Labels& labels) {
  return Counters(name, help).Add(labels);
}

prometheus::Gauge& MetricsRegistry::AddGauge(const std::string& name, const std::string& help,
                                             const prometheus::Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Histogram& MetricsRegistry::AddHistogram(const std::string& name,
                                                     const std::string& help,
                                                     const std::vector<double>& bounds,
                                                     const prometheus::Labels& labels) {
  return Histograms(name, help).Add(labels, bounds);
}

std::string MetricsRegistry::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  {
    MutexLock lock(&mutex_);
    for (const ScrapedMetrics* scraped : scraped_) Append(scraped->Collect(), &families);
  }
  return prometheus::TextSerializer().Serialize(families);
}

std::string MetricsRegistry::WhyNotReady() const {
  MutexLock lock(&mutex_);
  for (const ScrapedMetrics* scraped : scraped_) {
    if (scraped->why_not_ready_) return scraped->why_not_ready_();
  }
  return "";
}

ScrapedMetrics::~ScrapedMetrics() {
  MutexLock lock(&registry_->mutex_);
  std::erase(registry_->scraped_, this);
}

void ScrapedMetrics::AddCounters(const std::string& name, const std::string& help, Read read) {
  Add(name, help, prometheus::MetricType::Counter, std::move(read));
}

void ScrapedMetrics::AddGauges(const std::string& name, const std::string& help, Read read) {
  Add(name, help, prometheus::MetricType::Gauge, std::move(read));
}

void ScrapedMetrics::AddCounter(const std::string& name, const std::string& help,
                                std::function<double()> read) {
  AddCounters(name, help, One(std::move(read)));
}

void ScrapedMetrics::AddGauge(const std::string& name, const std::string& help,
                              std::function<double()> read) {
  AddGauges(name, help, One(std::move(read)));
}

void ScrapedMetrics::Publish() {
  MutexLock lock(&registry_->mutex_);
  registry_->scraped_.push_back(this);
}

void ScrapedMetrics::Add(const std::string& name, const std::string& help,
                         prometheus::MetricType type, Read read) {
  families_.push_back({name, help, type, std::move(read)});
}

std::vector<prometheus::MetricFamily> ScrapedMetrics::Collect() const {
  if (prepare_) prepare_();
  std::vector<prometheus::MetricFamily> families;
  for (const Family& family : families_) {
    prometheus::MetricFamily collected;
    collected.name = family.name;
    collected.help = family.help;
    collected.type = family.type;
    for (const MetricSample& sample : family.read()) {
      prometheus::ClientMetric& metric = collected.metric.emplace_back();
      for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
      metric.counter.value = sample.value;  // the serializer looks at the one of the type
      metric.gauge.value = sample.value;
    }
    if (!collected.metric.empty()) families.push_back(std::move(collected));
  }
  return families;
}

}  // namespace m1
