#include "common/metrics/capped_metrics.h"

#include <algorithm>

namespace m1 {
namespace {

double Folded(double a, double b, Fold fold) {
  switch (fold) {
    case Fold::kSum:
      return a + b;
    case Fold::kMin:
      return std::min(a, b);
    case Fold::kMax:
      return std::max(a, b);
  }
  return a;
}

}  // namespace

std::vector<MetricSample> CapSamples(const std::string& label_name,
                                     const std::vector<LabelledValue>& values, Fold fold,
                                     size_t max_values) {
  std::vector<MetricSample> samples;
  absl::flat_hash_map<std::string, size_t> places;  // in samples
  for (const LabelledValue& one : values) {
    std::string label = LabelValue(one.label);
    const size_t num_own = places.size() - places.count(kOtherValue);
    if (num_own >= max_values && !places.contains(label)) label = kOtherValue;
    const auto [found, is_new] = places.emplace(label, samples.size());
    if (is_new) {
      samples.push_back({{{label_name, label}}, one.value});
    } else {
      double& value = samples[found->second].value;
      value = Folded(value, one.value, fold);
    }
  }
  return samples;
}

}  // namespace m1
