// DrawTokens with the bits of the CPU: sums of weights are exact (sampling.h), so theirs is free. A
// block for each draw.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"
#include "common/kernels/cuda/vocab_block.h"
#include "common/kernels/cuda/vocab_border.h"

namespace m1::cuda {

// EditedLogit of sampling.h.
M1_DEVICE float EditLogit(float logit, const LogitEdit& edit) {
  if (edit.offset == -Infinity()) return -Infinity();
  const float penalised = logit > 0.0f ? logit / edit.penalty : logit * edit.penalty;
  const float edited = penalised + edit.offset;
  if (edited < -kMaxEditedLogit) return -kMaxEditedLogit;
  return kMaxEditedLogit < edited ? kMaxEditedLogit : edited;
}

template <typename Thread>
class DrawBody {
 public:
  M1_DEVICE DrawBody(Thread& thread, const DrawArgs& args)
      : thread_(thread),
        args_(args),
        draw_(thread.Load(args.draws + thread.block().x)),
        logits_(args.logits + static_cast<int64_t>(draw_.row) * args.vocab),
        weights_(args.scratch + static_cast<int64_t>(thread.block().x) * args.vocab),
        saved_(args.scratch + static_cast<int64_t>(args.num_draws) * args.vocab + draw_.first_edit),
        row_(thread, logits_, weights_, args.vocab) {}

  M1_DEVICE void Run() {
    Edit();
    thread_.Barrier();
    const uint64_t first = row_.FindPeak();
    const float peak = row_.LogitOf(first);
    const bool is_greedy = draw_.temperature == 0.0f || peak == -Infinity();
    const int id = is_greedy ? row_.IdOf(first) : DrawWeighted(peak);
    if (thread_.index() == 0) thread_.Store(args_.ids + thread_.block().x, id);
    thread_.Barrier();  // nobody reads edited logits any more
    Restore();
  }

 private:
  // Each edit by one thread, there and back: ids of edits differ.
  M1_DEVICE void Edit() {
    for (int i = thread_.index(); i < draw_.num_edits; i += kVocabThreads) {
      const LogitEdit edit = thread_.Load(args_.edits + draw_.first_edit + i);
      const float logit = thread_.Load(logits_ + edit.id);
      thread_.Store(saved_ + i, logit);
      thread_.Store(logits_ + edit.id, EditLogit(logit, edit));
    }
  }
  M1_DEVICE void Restore() {
    for (int i = thread_.index(); i < draw_.num_edits; i += kVocabThreads) {
      const LogitEdit edit = thread_.Load(args_.edits + draw_.first_edit + i);
      thread_.Store(logits_ + edit.id, thread_.Load(saved_ + i));
    }
  }

  M1_DEVICE int DrawWeighted(float peak) {
    double total = Weigh(peak);
    // Weights of about 2^-9, then 2^-18, of the first token's.
    const float spread = 6.0f * draw_.temperature;
    Border border{0, static_cast<double>(args_.vocab)};
    if (draw_.top_k > 0 && draw_.top_k < args_.vocab) {
      border = row_.template FindBorder<Measure::kCount>(static_cast<double>(draw_.top_k), border,
                                                         spread);
      if (draw_.top_p < 1.0f) total = row_.TallyFrom(border.key).weight;
    }
    if (draw_.top_p < 1.0f) {
      const double part = static_cast<double>(draw_.top_p) * total;
      const auto least = static_cast<double>(args_.unit);  // the first token, however small top_p
      border =
          row_.template FindBorder<Measure::kWeight>(part > least ? part : least, border, spread);
    }
    return Invert(border.key);
  }

  // Fills weights_; returns their sum.
  M1_DEVICE double Weigh(float peak) {
    const float temperature = draw_.temperature;
    const float peak_quotient = Quotient(peak, temperature);
    // Adding it makes the unit the last place of what is smaller.
    const float rounder = args_.unit * 0x1p23f;
    double sum[1] = {0.0};
    ForTokens(thread_, row_.AllTokens(), logits_, nullptr, [&](int id, float logit, float) {
      const float exact = Exp(Quotient(logit, temperature) - peak_quotient);
      const float weight = exact < rounder ? (exact + rounder) - rounder : exact;
      thread_.Store(weights_ + id, weight);
      sum[0] += static_cast<double>(weight);
    });
    ReduceBlock(thread_, kResultsAt, sum, AddValues());
    return sum[0];
  }

  // The first token in order of id whose kept weight and that of all lower ids together exceed
  // uniform * (all kept weight). The ids are split among the warps, then those of the warp that
  // has it, until one is left.
  M1_DEVICE int Invert(uint64_t border) {
    int begin = 0;
    int size = args_.vocab;
    double before = 0.0;
    double threshold = -1.0;
    while (size > 1) {
      const int part = CeilDiv(size, kVocabWarps);
      const int first = begin + thread_.warp() * part;
      const int end = begin + size < first + part ? begin + size : first + part;
      const double own = ReduceWarp(thread_, KeptWeight(border, first, end), AddValues());
      if (thread_.lane() == 0) thread_.StoreShared(kPartsAt + thread_.warp() * kWideBytes, own);
      thread_.Barrier();
      if (threshold < 0.0) threshold = draw_.uniform * AddParts();
      const int chosen = ChoosePart(threshold, before);
      const int left = size - chosen * part;
      begin += chosen * part;
      size = left < part ? left : part;
      thread_.Barrier();  // parts are free again
    }
    return begin;
  }

  M1_DEVICE double KeptWeight(uint64_t border, int begin, int end) {
    double sum = 0.0;
    const TokenRange range{begin + thread_.lane(), end, kWarpLanes};
    const float* logits = border == 0 ? nullptr : logits_;
    ForTokens(thread_, range, logits, weights_, [&](int id, float logit, float weight) {
      if (logits != nullptr && row_.KeyOf(id, logit) < border) return;
      if (weight < draw_.min_p) return;
      sum += static_cast<double>(weight);
    });
    return sum;
  }

  M1_DEVICE double Part(int warp) {
    return thread_.template LoadShared<double>(kPartsAt + warp * kWideBytes);
  }
  M1_DEVICE double AddParts() {
    double sum = 0.0;
    for (int warp = 0; warp < kVocabWarps; ++warp) sum += Part(warp);
    return sum;
  }

  // The part that passes the threshold, or the last one with weight: the product may round up to
  // the weight of all. `before`: the weight of all lower ids, moves on to the part's begin.
  M1_DEVICE int ChoosePart(double threshold, double& before) {
    int chosen = 0;
    double sum = before;
    for (int warp = 0; warp < kVocabWarps && sum <= threshold; ++warp) {
      const double weight = Part(warp);
      if (weight == 0.0) continue;
      chosen = warp;
      before = sum;
      sum += weight;
    }
    return chosen;
  }

  Thread& thread_;
  const DrawArgs& args_;
  const DrawParams draw_;
  float* const logits_;
  float* const weights_;
  float* const saved_;
  VocabRow<Thread> row_;
};

}  // namespace m1::cuda
