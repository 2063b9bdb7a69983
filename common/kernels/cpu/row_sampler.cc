#include "common/kernels/cpu/row_sampler.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace m1 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kAboveAllWeights = 2.0f;
// Weights, relative to the likeliest token's, at which borders are sought first.
constexpr float kFirstFloors[] = {0x1p-9f, 0x1p-18f};
// So many tokens are gathered, or are a border to look at more closely.
constexpr int64_t kGatherTokens = 4096;
constexpr int64_t kSortTokens = 32;
// Tokens that are weighed together before the drawn one is sought among them.
constexpr int64_t kInvertBlock = 1024;

Tally operator+(const Tally& a, const Tally& b) { return {a.count + b.count, a.weight + b.weight}; }

// Positive floats are ordered as their bits are.
bool HaveFloatBetween(float low, float high) {
  return std::bit_cast<uint32_t>(high) - std::bit_cast<uint32_t>(low) > 1;
}
float FloatBetween(float low, float high) {
  const uint32_t low_bits = std::bit_cast<uint32_t>(low);
  return std::bit_cast<float>(low_bits + (std::bit_cast<uint32_t>(high) - low_bits) / 2);
}

// Of two ids, the one with the larger logit is first; ties go to the lower id.
auto ByLogit(std::span<const float> logits) {
  return [logits](int32_t a, int32_t b) {
    const float logit_a = logits[static_cast<size_t>(a)];
    const float logit_b = logits[static_cast<size_t>(b)];
    return logit_a != logit_b ? logit_a > logit_b : a < b;
  };
}

int64_t SizeOf(std::span<const float> values) { return static_cast<int64_t>(values.size()); }

}  // namespace

int32_t RowSampler::Draw(std::span<float> logits, const TokenDraw& draw) {
  saved_.clear();
  for (const LogitEdit& edit : draw.edits) {
    float& logit = logits[static_cast<size_t>(edit.id)];
    saved_.push_back(logit);
    logit = EditedLogit(logit, edit);
  }
  const float peak = Peak(logits);
  const int32_t id = draw.temperature == 0.0f || peak == -kInfinity
                         ? FirstOf(logits, peak)
                         : DrawWeighted(logits, peak, draw);
  for (size_t i = saved_.size(); i-- > 0;) {
    logits[static_cast<size_t>(draw.edits[i].id)] = saved_[i];
  }
  return id;
}

float RowSampler::Peak(std::span<const float> logits) {
  maxima_.resize((logits.size() + kMaximaBlock - 1) / kMaximaBlock);
  kernels_.block_maxima(logits.data(), SizeOf(logits), maxima_.data());
  return *std::max_element(maxima_.begin(), maxima_.end());
}

int32_t RowSampler::FirstOf(std::span<const float> logits, float value) const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), value) - maxima_.begin();
  const auto first = std::find(logits.begin() + block * kMaximaBlock, logits.end(), value);
  return static_cast<int32_t>(first - logits.begin());
}

int32_t RowSampler::DrawWeighted(std::span<const float> logits, float peak, const TokenDraw& draw) {
  unit_ = WeightUnit(SizeOf(logits));
  if (draw.top_k > 0 && static_cast<size_t>(draw.top_k) <= maxima_.size()) {
    WeighBest(logits, peak, draw);
  } else {
    is_gathered_ = false;
    Weigh(logits, peak, draw.temperature);
    if (draw.top_k > 0) KeepFirst(Measure::kCount, static_cast<double>(draw.top_k), logits);
  }
  if (draw.top_p < 1.0f) {
    // At least the first token, however small top_p is.
    KeepFirst(Measure::kWeight,
              std::max(static_cast<double>(draw.top_p) * total_, static_cast<double>(unit_)),
              logits);
  }
  if (draw.min_p > unit_) KeepHeavy(draw.min_p);
  return Invert(draw.uniform);
}

void RowSampler::Weigh(std::span<const float> logits, float peak, float temperature) {
  if (row_weights_.size() < logits.size()) row_weights_.resize(logits.size());
  weights_ = std::span<float>(row_weights_).first(logits.size());
  total_ = kernels_.draw_weights({.logits = logits.data(),
                                  .weights = weights_.data(),
                                  .vocab = SizeOf(logits),
                                  .temperature = temperature,
                                  .peak = peak,
                                  .unit = unit_});
}

void RowSampler::WeighBest(std::span<const float> logits, float peak, const TokenDraw& draw) {
  const std::span<const int32_t> best = Best(logits, static_cast<size_t>(draw.top_k));
  ids_.assign(best.begin(), best.end());
  std::sort(ids_.begin(), ids_.end());
  std::vector<float> best_logits;
  for (const int32_t id : ids_) best_logits.push_back(logits[static_cast<size_t>(id)]);
  is_gathered_ = true;
  Weigh(best_logits, peak, draw.temperature);
}

void RowSampler::KeepFirst(Measure measure, double wanted, std::span<const float> logits) {
  Bracket bracket{};
  if (!FindBracket(measure, wanted, &bracket)) return;
  if (!is_gathered_ && bracket.from_low.count <= kGatherTokens) {
    Gather(bracket.low, bracket.from_low.count);
  }
  Narrow(weights_, {0, 0.0}, measure, wanted, kGatherTokens, &bracket);

  const std::vector<int32_t> border = Ranked(measure, wanted, logits, &bracket);
  std::vector<float> border_weights;
  for (const int32_t place : border) border_weights.push_back(weights_[static_cast<size_t>(place)]);
  kernels_.zero_below(weights_.data(), SizeOf(weights_), bracket.high);
  Tally kept = bracket.from_high;
  for (size_t i = 0; i < border.size() && Measured(measure, kept) < wanted; ++i) {
    weights_[static_cast<size_t>(border[i])] = border_weights[i];
    kept = kept + Tally{1, static_cast<double>(border_weights[i])};
  }
  total_ = kept.weight;
}

double RowSampler::Measured(Measure measure, const Tally& tally) {
  return measure == Measure::kCount ? static_cast<double>(tally.count) : tally.weight;
}

bool RowSampler::FindBracket(Measure measure, double wanted, Bracket* bracket) const {
  bracket->high = kAboveAllWeights;
  bracket->from_high = {0, 0.0};
  const auto reaches = [&](float floor) {
    const Tally tally = kernels_.tally_from(weights_.data(), SizeOf(weights_), floor);
    const bool is_enough = Measured(measure, tally) >= wanted;
    (is_enough ? bracket->low : bracket->high) = floor;
    (is_enough ? bracket->from_low : bracket->from_high) = tally;
    return is_enough;
  };
  return std::any_of(std::begin(kFirstFloors), std::end(kFirstFloors), reaches) || reaches(unit_);
}

void RowSampler::Narrow(std::span<const float> weights, Tally above, Measure measure, double wanted,
                        int64_t limit, Bracket* bracket) const {
  while (bracket->count() > limit && HaveFloatBetween(bracket->low, bracket->high)) {
    const float floor = FloatBetween(bracket->low, bracket->high);
    const Tally tally = above + kernels_.tally_from(weights.data(), SizeOf(weights), floor);
    if (Measured(measure, tally) >= wanted) {
      bracket->low = floor;
      bracket->from_low = tally;
    } else {
      bracket->high = floor;
      bracket->from_high = tally;
    }
  }
}

void RowSampler::Gather(float floor, int64_t count) {
  ids_.resize(static_cast<size_t>(count));
  kernels_.collect(weights_.data(), SizeOf(weights_), floor, kAboveAllWeights, ids_.data());
  for (size_t place = 0; place < ids_.size(); ++place) {
    weights_[place] = weights_[static_cast<size_t>(ids_[place])];
  }
  weights_ = weights_.first(ids_.size());
  is_gathered_ = true;
}

std::vector<int32_t> RowSampler::Ranked(Measure measure, double wanted,
                                        std::span<const float> logits, Bracket* bracket) const {
  std::vector<int32_t> places(static_cast<size_t>(bracket->count()));
  kernels_.collect(weights_.data(), SizeOf(weights_), bracket->low, bracket->high, places.data());
  const auto weight_of = [&](int32_t place) { return weights_[static_cast<size_t>(place)]; };
  std::vector<float> weights(places.size());
  std::transform(places.begin(), places.end(), weights.begin(), weight_of);
  Narrow(weights, bracket->from_high, measure, wanted, kSortTokens, bracket);
  std::erase_if(places, [&](int32_t place) {
    return weight_of(place) < bracket->low || weight_of(place) >= bracket->high;
  });
  std::sort(places.begin(), places.end(), [&, is_first = ByLogit(logits)](int32_t a, int32_t b) {
    return is_first(IdAt(static_cast<size_t>(a)), IdAt(static_cast<size_t>(b)));
  });
  return places;
}

void RowSampler::KeepHeavy(float floor) {
  kernels_.zero_below(weights_.data(), SizeOf(weights_), floor);
  total_ = kernels_.tally_from(weights_.data(), SizeOf(weights_), unit_).weight;
}

int32_t RowSampler::Invert(double uniform) const {
  const double threshold = uniform * total_;
  // The block that holds the token; the last one with weight if the product rounded up to all.
  int64_t block = 0;
  double before = 0.0;
  double sum = 0.0;
  for (int64_t begin = 0; begin < SizeOf(weights_) && sum <= threshold; begin += kInvertBlock) {
    const int64_t size = std::min(kInvertBlock, SizeOf(weights_) - begin);
    const Tally tally = kernels_.tally_from(weights_.data() + begin, size, unit_);
    if (tally.count == 0) continue;
    block = begin;
    before = sum;
    sum += tally.weight;
  }
  const size_t end = std::min(static_cast<size_t>(block + kInvertBlock), weights_.size());
  auto drawn = static_cast<size_t>(block);
  sum = before;
  for (size_t place = drawn; place < end && sum <= threshold; ++place) {
    if (weights_[place] == 0.0f) continue;
    drawn = place;
    sum += static_cast<double>(weights_[place]);
  }
  return IdAt(drawn);
}

TokenScore RowSampler::Score(std::span<const float> logits, const ScoreRequest& request) {
  const auto logit_of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  const auto logprob_of = [&](int32_t id) {
    return logit_of(id) / request.temperature - request.lse;
  };
  TokenScore score{.id = request.id,
                   .logprob = logprob_of(request.id),
                   .rank = 1 + static_cast<int32_t>(kernels_.count_before(
                                   logits.data(), SizeOf(logits), request.id))};
  const auto count = std::min(static_cast<size_t>(request.candidate_count), logits.size());
  if (count > 0) {
    Peak(logits);
    for (const int32_t id : Best(logits, count)) score.candidates.push_back({id, logprob_of(id)});
  }
  return score;
}

std::span<const int32_t> RowSampler::Best(std::span<const float> logits, size_t count) {
  // At least `count` logits reach the count-th largest of the maxima of blocks.
  float floor = -kInfinity;
  if (count <= maxima_.size()) {
    const auto last = maxima_.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::nth_element(maxima_.begin(), last, maxima_.end(), std::greater<>());
    floor = *last;
  }
  // Never shrinks: growing again would fill it with zeros.
  if (best_.size() < logits.size()) best_.resize(logits.size());
  const int64_t num_found =
      kernels_.collect(logits.data(), SizeOf(logits), floor, kInfinity, best_.data());
  const std::span<int32_t> found = std::span<int32_t>(best_).first(static_cast<size_t>(num_found));
  std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count), found.end(),
                    ByLogit(logits));
  return found.first(count);
}

}  // namespace m1
