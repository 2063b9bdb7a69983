#include "attention_worker/sampler.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "attention_worker/philox.h"
#include "common/kernels/exact_math.h"

namespace m1 {
namespace {

struct Choice {
  int32_t id = 0;
  float logit = 0.0F;   // undivided: dividing by the temperature keeps the order but makes ties
  double weight = 0.0;  // probability
};

// Likeliest first; a total order.
bool Likelier(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

int32_t Argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

float Logprob(float logit, float temperature, float lse) { return logit / temperature - lse; }

double Probability(float logit, float temperature, float lse) {
  return static_cast<double>(ExactExp(Logprob(logit, temperature, lse)));
}

// Tokens with a logit of at least `floor`, in order of id.
std::vector<Choice> AtLeast(std::span<const float> logits, float floor) {
  std::vector<Choice> choices;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] >= floor) choices.push_back({static_cast<int32_t>(id), logits[id], 0.0});
  }
  return choices;
}

// The `count` likeliest tokens, likeliest first.
std::vector<Choice> Likeliest(std::span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  if (count == 0) return {};
  std::vector<float> values(logits.begin(), logits.end());
  const auto last = values.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(values.begin(), last, values.end(), std::greater<>());
  std::vector<Choice> choices = AtLeast(logits, *last);
  std::sort(choices.begin(), choices.end(), Likelier);
  choices.resize(count);
  return choices;
}

// Cuts a list, likeliest first, after the first tokens that together weigh `mass`; false when all
// of it weighs less.
bool CutAtMass(std::vector<Choice>& choices, double mass) {
  double sum = 0.0;
  for (size_t i = 0; i < choices.size(); ++i) {
    sum += choices[i].weight;
    if (sum >= mass) {
      choices.resize(i + 1);
      return true;
    }
  }
  return false;
}

class RowSampler {
 public:
  RowSampler(std::span<const float> logits, float lse, const SamplingParams& sampling)
      : logits_(logits), lse_(lse), sampling_(sampling) {}

  int32_t Draw(double uniform) const {
    std::vector<Choice> kept = Truncated();
    ApplyMinP(kept);
    std::sort(kept.begin(), kept.end(),
              [](const Choice& a, const Choice& b) { return a.id < b.id; });
    double total = 0.0;
    for (const Choice& choice : kept) total += choice.weight;
    const double target = uniform * total;
    double sum = 0.0;
    int32_t last = kept.front().id;
    for (const Choice& choice : kept) {
      if (choice.weight == 0.0) continue;
      sum += choice.weight;
      last = choice.id;
      if (sum > target) break;
    }
    return last;
  }

 private:
  void Weigh(std::vector<Choice>& choices) const {
    for (Choice& choice : choices) {
      choice.weight = Probability(choice.logit, sampling_.temperature, lse_);
    }
  }

  // What top_k and top_p leave, with weights.
  std::vector<Choice> Truncated() const {
    const auto vocab = static_cast<int64_t>(logits_.size());
    if (sampling_.top_k > 0 && sampling_.top_k < vocab) {
      std::vector<Choice> kept = Likeliest(logits_, static_cast<size_t>(sampling_.top_k));
      Weigh(kept);
      double total = 0.0;
      for (const Choice& choice : kept) total += choice.weight;
      if (sampling_.top_p < 1.0F) CutAtMass(kept, static_cast<double>(sampling_.top_p) * total);
      return kept;
    }
    if (sampling_.top_p < 1.0F) return TopP();
    std::vector<Choice> all = AtLeast(logits_, -std::numeric_limits<float>::infinity());
    Weigh(all);
    return all;
  }

  // The nucleus is sought among the tokens above a floor that falls until they weigh enough: the
  // answer does not depend on the floors, sorting 200 000 tokens would cost milliseconds.
  std::vector<Choice> TopP() const {
    const float peak = logits_[static_cast<size_t>(Argmax(logits_))];
    for (const float depth : {6.0F, 12.0F, 24.0F}) {
      std::vector<Choice> kept = AtLeast(logits_, peak - depth * sampling_.temperature);
      Weigh(kept);
      std::sort(kept.begin(), kept.end(), Likelier);
      if (CutAtMass(kept, static_cast<double>(sampling_.top_p))) return kept;
    }
    std::vector<Choice> all = AtLeast(logits_, -std::numeric_limits<float>::infinity());
    Weigh(all);
    std::sort(all.begin(), all.end(), Likelier);
    CutAtMass(all, static_cast<double>(sampling_.top_p));
    return all;
  }

  void ApplyMinP(std::vector<Choice>& kept) const {
    if (sampling_.min_p <= 0.0F) return;
    double largest = 0.0;
    for (const Choice& choice : kept) largest = std::max(largest, choice.weight);
    const double least = static_cast<double>(sampling_.min_p) * largest;
    std::erase_if(kept, [least](const Choice& choice) { return choice.weight < least; });
  }

  std::span<const float> logits_;
  float lse_;
  const SamplingParams& sampling_;
};

}  // namespace

int32_t SampleToken(std::span<const float> logits, float lse, const SamplingParams& sampling,
                    int64_t position) {
  if (sampling.temperature <= 0.0F) return Argmax(logits);
  return RowSampler(logits, lse, sampling)
      .Draw(PhiloxUniform(sampling.seed, static_cast<uint64_t>(position)));
}

TokenScore ScoreToken(std::span<const float> logits, float lse, float temperature, int32_t id,
                      int32_t candidate_count) {
  const float logit = logits[static_cast<size_t>(id)];
  int32_t before = 0;
  for (size_t v = 0; v < logits.size(); ++v) before += logits[v] > logit ? 1 : 0;
  for (size_t v = 0; v < static_cast<size_t>(id); ++v) before += logits[v] == logit ? 1 : 0;
  TokenScore score{
      .id = id, .logprob = Logprob(logit, temperature, lse), .rank = before + 1, .candidates = {}};
  for (const Choice& choice : Likeliest(logits, static_cast<size_t>(candidate_count))) {
    score.candidates.push_back({choice.id, Logprob(choice.logit, temperature, lse)});
  }
  return score;
}

}  // namespace m1
