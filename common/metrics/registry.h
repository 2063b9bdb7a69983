// What a process counts, in Prometheus's terms, and its text form. Metrics that are counted where
// things happen are prometheus-cpp's own (atomics); figures that a component keeps anyway are read
// at each scrape through ScrapedMetrics.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

#include "common/base/mutex.h"

namespace m1 {

// Bounds of histograms of seconds: 0.1 ms to 10 minutes.
const std::vector<double>& SecondsBuckets();
// Of rows: powers of two from 1 to 4096.
const std::vector<double>& RowsBuckets();

// `value` as a label may be: printable ASCII, at most 128 bytes; other bytes become '_'.
std::string LabelValue(absl::string_view value);

class ScrapedMetrics;

// Thread-safe. The same name, with other labels, may be added again and again; help and kind are
// those of the first time.
class MetricsRegistry {
 public:
  MetricsRegistry();

  // The metrics live as long as the registry. Equal labels give the same metric.
  prometheus::Counter& AddCounter(const std::string& name, const std::string& help,
                                  const prometheus::Labels& labels = {});
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help,
                              const prometheus::Labels& labels = {});
  prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                      const std::vector<double>& bounds,
                                      const prometheus::Labels& labels = {});

  // All metrics of a name, for whoever takes some away again: see CappedMetrics.
  prometheus::Family<prometheus::Counter>& Counters(const std::string& name,
                                                    const std::string& help);
  prometheus::Family<prometheus::Histogram>& Histograms(const std::string& name,
                                                        const std::string& help);

  // All metrics in Prometheus's text format.
  std::string Text() const;
  // What the published ScrapedMetrics say; empty where none has an opinion.
  std::string WhyNotReady() const;

 private:
  friend class ScrapedMetrics;

  prometheus::Registry registry_;
  mutable Mutex mutex_;
  std::vector<const ScrapedMetrics*> scraped_ ABSL_GUARDED_BY(mutex_);
};

struct MetricSample {
  prometheus::Labels labels;
  double value = 0;
};

// Figures that are read at each scrape, as long as this lives; what it reads must outlive it. Add
// before the first scrape that may see it: it is not locked.
class ScrapedMetrics {
 public:
  explicit ScrapedMetrics(MetricsRegistry* registry) : registry_(registry) {}
  // A scrape that runs is waited for.
  ~ScrapedMetrics();
  ScrapedMetrics(const ScrapedMetrics&) = delete;
  ScrapedMetrics& operator=(const ScrapedMetrics&) = delete;

  using Read = std::function<std::vector<MetricSample>()>;
  void AddCounters(const std::string& name, const std::string& help, Read read);
  void AddGauges(const std::string& name, const std::string& help, Read read);
  void AddCounter(const std::string& name, const std::string& help, std::function<double()> read);
  void AddGauge(const std::string& name, const std::string& help, std::function<double()> read);
  // Before the figures of each scrape are read, by the same thread: what several of them share is
  // looked up once.
  void BeforeEach(std::function<void()> prepare) { prepare_ = std::move(prepare); }
  // Why the process does not serve, as a line for people; asked only while it does not. Any thread.
  void WhyNotReady(std::function<std::string()> why) { why_not_ready_ = std::move(why); }
  // From now on scrapes read them.
  void Publish();

 private:
  friend class MetricsRegistry;
  struct Family {
    std::string name;
    std::string help;
    prometheus::MetricType type;
    Read read;
  };

  void Add(const std::string& name, const std::string& help, prometheus::MetricType type,
           Read read);
  std::vector<prometheus::MetricFamily> Collect() const;

  MetricsRegistry* const registry_;
  std::vector<Family> families_;
  std::function<void()> prepare_;
  std::function<std::string()> why_not_ready_;
};

}  // namespace m1
