// A row of logits in order of tokens: the search for the border above which tokens are kept.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"
#include "common/kernels/cuda/vocab_block.h"

namespace m1::cuda {

// One block's row. Every token has a key of its own, larger for what comes first: its logit's
// order, then the lower id.
//
// A border is sought by halving the range of keys, at kProbes places in one pass. As soon as the
// tokens of the range are few, they are gathered into shared memory and the row is not read again.
template <typename Thread>
class VocabRow {
 public:
  // `weights` may be null where only kCount is measured.
  M1_DEVICE VocabRow(Thread& thread, const float* logits, const float* weights, int vocab)
      : thread_(thread), logits_(logits), weights_(weights), vocab_(vocab) {
    while ((1 << id_bits_) < vocab) ++id_bits_;
  }

  M1_DEVICE uint64_t KeyOf(int id, float logit) const {
    return FirstKey(OrderOf(logit)) | static_cast<uint64_t>(vocab_ - 1 - id);
  }
  M1_DEVICE int IdOf(uint64_t key) const {
    return vocab_ - 1 - static_cast<int>(key & (FirstKey(1) - 1));
  }
  M1_DEVICE float LogitOf(uint64_t key) const {
    return LogitOfOrder(static_cast<uint32_t>(key >> id_bits_));
  }

  M1_DEVICE TokenRange AllTokens() const { return {thread_.index(), vocab_, kVocabThreads}; }

  // The largest key of the row. To be called first.
  M1_DEVICE uint64_t FindPeak() {
    uint64_t best[1] = {0};
    ForTokens(thread_, AllTokens(), logits_, nullptr, [&](int id, float logit, float) {
      best[0] = LargerKey()(best[0], KeyOf(id, logit));
    });
    ReduceBlock(thread_, kResultsAt, best, LargerKey());
    peak_ = best[0];
    return peak_;
  }

  // Of the whole row.
  M1_DEVICE KeyTally TallyFrom(uint64_t key) {
    num_gathered_ = -1;
    const uint64_t probes[kProbes] = {key, key, key};
    KeyTally tallies[kProbes];
    TallyProbes(probes, KeyTally{}, tallies);
    return tallies[0];
  }

  // The border of the fewest first tokens that measure `wanted` (> 0) together. Those of `from` do.
  // `spread`: how far below the peak it is sought first, in logits.
  template <Measure kMeasure>
  M1_DEVICE Border FindBorder(double wanted, const Border& from, float spread) {
    num_gathered_ = -1;
    Border low = from;          // measures enough
    uint64_t high = peak_ + 1;  // does not
    KeyTally high_tally{};      // of `high`
    KeyTally gathered_above{};
    bool is_first = true;
    while (low.count - high_tally.count > 1.0) {
      if (num_gathered_ < 0 && low.count - high_tally.count <= kGatherTokens) {
        Gather(low.key, high);
        gathered_above = high_tally;
      }
      uint64_t probes[kProbes];
      PickProbes(low.key, high, is_first ? spread : 0.0f, probes);
      KeyTally tallies[kProbes];
      TallyProbes(probes, gathered_above, tallies);
      M1_UNROLL
      for (int i = 0; i < kProbes; ++i) {
        const double measured = kMeasure == Measure::kCount ? tallies[i].count : tallies[i].weight;
        if (measured >= wanted) {
          if (probes[i] > low.key) low = {probes[i], tallies[i].count};
        } else if (probes[i] < high) {
          high = probes[i];
          high_tally = tallies[i];
        }
      }
      is_first = false;
    }
    return low;
  }

  // Brings the keys in [low, high), at most kGatherTokens, to shared memory in any order. Every
  // thread counts its own, then writes them one after another.
  M1_DEVICE void Gather(uint64_t low, uint64_t high) {
    const auto is_wanted = [&](uint64_t key) { return key >= low && key < high; };
    int count = 0;
    ForTokens(thread_, AllTokens(), logits_, nullptr, [&](int id, float logit, float) {
      if (is_wanted(KeyOf(id, logit))) ++count;
    });
    int slot = FirstSlot(thread_, count, num_gathered_);
    ForTokens(thread_, AllTokens(), logits_, weights_, [&](int id, float logit, float weight) {
      const uint64_t key = KeyOf(id, logit);
      const bool wanted = is_wanted(key);
      thread_.StoreSharedIf(wanted, kKeysAt + slot * kWideBytes, key);
      thread_.StoreSharedIf(wanted, kWeightsAt + slot * kFloatBytes, weight);
      if (wanted) ++slot;
    });
    thread_.Barrier();
  }
  M1_DEVICE uint64_t GatheredKey(int slot) const {
    return thread_.template LoadShared<uint64_t>(kKeysAt + slot * kWideBytes);
  }

 private:
  static constexpr int kFloatBytes = static_cast<int>(sizeof(float));

  M1_DEVICE uint64_t FirstKey(uint32_t order) const {
    return static_cast<uint64_t>(order) << id_bits_;
  }

  // What a first look at most rows needs; later the middle of the range, by bits and by value.
  // Where a probe would stand outside, the middle stands in: it alone ends the search.
  M1_DEVICE void PickProbes(uint64_t low, uint64_t high, float spread,
                            uint64_t (&probes)[kProbes]) const {
    const uint64_t middle = low + (high - low) / 2;
    if (spread > 0.0f) {
      const float peak = LogitOf(peak_);
      probes[0] = FirstKey(OrderOf(peak));
      probes[1] = FirstKey(OrderOf(peak - spread));
      probes[2] = FirstKey(OrderOf(peak - 2.0f * spread));
    } else {
      const float high_logit = LogitOf(high);
      const float low_logit = LogitOf(low);
      probes[0] = middle;
      probes[1] = num_gathered_ < 0 ? FirstKey(OrderOf(0.5f * low_logit + 0.5f * high_logit))
                                    : low + (high - low) / 4;
      probes[2] = num_gathered_ < 0 ? FirstKey(OrderOf(2.0f * high_logit - LogitOf(peak_)))
                                    : middle + (high - middle) / 2;
    }
    M1_UNROLL
    for (int i = 0; i < kProbes; ++i) {
      if (probes[i] <= low || probes[i] >= high) probes[i] = middle;
    }
  }

  // For each probe the tokens from it on: those gathered and `above`, or those of the row.
  M1_DEVICE void TallyProbes(const uint64_t (&probes)[kProbes], const KeyTally& above,
                             KeyTally (&tallies)[kProbes]) {
    int counts[kProbes] = {};
    double weights[kProbes] = {};
    const auto add = [&](uint64_t key, float weight) {
      M1_UNROLL
      for (int i = 0; i < kProbes; ++i) {
        if (key < probes[i]) continue;
        ++counts[i];
        weights[i] += static_cast<double>(weight);
      }
    };
    if (num_gathered_ >= 0) {
      for (int slot = thread_.index(); slot < num_gathered_; slot += kVocabThreads) {
        add(GatheredKey(slot), thread_.template LoadShared<float>(kWeightsAt + slot * kFloatBytes));
      }
    } else {
      ForTokens(thread_, AllTokens(), logits_, weights_,
                [&](int id, float logit, float weight) { add(KeyOf(id, logit), weight); });
    }
    double values[kReduced];
    M1_UNROLL
    for (int i = 0; i < kProbes; ++i) {
      values[i] = static_cast<double>(counts[i]);
      values[kProbes + i] = weights[i];
    }
    ReduceBlock(thread_, kResultsAt, values, AddValues());
    M1_UNROLL
    for (int i = 0; i < kProbes; ++i) {
      tallies[i] = {above.count + values[i], above.weight + values[kProbes + i]};
    }
  }

  Thread& thread_;
  const float* const logits_;
  const float* const weights_;
  const int vocab_;
  int id_bits_ = 0;
  uint64_t peak_ = 0;
  int num_gathered_ = -1;  // -1: nothing is
};

}  // namespace m1::cuda
