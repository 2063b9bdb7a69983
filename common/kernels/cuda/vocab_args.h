// What the kernels over rows of logits are given, and their launches. Pointers are device memory;
// vocab is 1 to kMaxVocab. A block has one row, draw or request.
//
// What to expect on an H200 of a row of 200 064 tokens, all rows of a step side by side (reckoned
// from the loads under way, not measured): a pass over the row 10 us, with exps 40. LogSumExp 50
// (its 16 ordered sums alone 29: 4 cycles for each of vocab / 16 additions), a greedy draw 10, a
// plain one 70, with top_k or top_p 140, a score with candidates 50. Rare rows, as of thousands of
// equal logits inside the border, take up to 40 passes.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/sampling.h"

namespace m1::cuda {

// So that sums of ids stay below 2^31.
inline constexpr int kMaxVocab = 1 << 30;

struct LogSumExpArgs {
  const float* logits;        // [rows, vocab]
  const float* temperatures;  // [rows], > 0
  float* lse;                 // [rows]
  int32_t rows;
  int32_t vocab;

  constexpr bool operator==(const LogSumExpArgs&) const = default;
};

// A TokenDraw. Its edits are edits[first_edit, first_edit + num_edits).
struct DrawParams {
  double uniform;
  int32_t row;
  int32_t first_edit;
  int32_t num_edits;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
  int32_t unused = 0;
};

struct DrawArgs {
  float* logits;            // [rows, vocab]; changed while the kernel runs only
  const DrawParams* draws;  // [num_draws], of different rows
  const LogitEdit* edits;   // [num_edits], those of all draws
  int32_t* ids;             // [num_draws]
  float* scratch;           // DrawScratchBytes
  int32_t num_draws;
  int32_t num_edits;
  int32_t vocab;
  float unit;  // WeightUnit(vocab)

  constexpr bool operator==(const DrawArgs&) const = default;
};

// Weights of all draws, then the logits that edits replaced.
constexpr int64_t DrawScratchBytes(int64_t num_draws, int64_t num_edits, int64_t vocab) {
  return (num_draws * vocab + num_edits) * static_cast<int64_t>(sizeof(float));
}

// A ScoreRequest.
struct ScoreParams {
  int32_t row;
  int32_t id;
  float temperature;
  float lse;
  int32_t candidate_count;  // at most max_candidates
};

struct ScoreArgs {
  const float* logits;          // [rows, vocab]
  const ScoreParams* requests;  // [num_requests]
  float* logprobs;              // [num_requests]
  int32_t* ranks;               // [num_requests]
  // min(candidate_count, vocab) of each row are written.
  int32_t* candidate_ids;     // [num_requests, max_candidates]
  float* candidate_logprobs;  // [num_requests, max_candidates]
  int32_t num_requests;
  int32_t max_candidates;  // at most kMaxScoreCandidates
  int32_t vocab;

  constexpr bool operator==(const ScoreArgs&) const = default;
};

// A block for each row, draw or request.
inline constexpr int kVocabThreads = 512;
inline constexpr int kVocabWarps = kVocabThreads / kWarpLanes;
// Loads that a thread has under way, so that one block comes near to the bandwidth of its
// multiprocessor.
inline constexpr int kVocabBatch = 16;
inline constexpr int kWideBytes = 8;

// Block-wide reductions: [value, thread] of 8 bytes, at the front of shared memory.
constexpr int PartialBytes(int values) { return values * kVocabThreads * kWideBytes; }

// LogSumExp: warp 0 adds one tile while the other warps fill the next.
inline constexpr int kSumLanes = 16;
inline constexpr int kFillThreads = kVocabThreads - kWarpLanes;
inline constexpr int kTileTokens = kFillThreads * kVocabBatch;
inline constexpr int kTileBytes = kTileTokens * static_cast<int>(sizeof(float));
inline constexpr int kSumResults = 2 * kTileBytes;  // behind the tiles, which partials share
inline constexpr int kSumReduced = 2;

constexpr LaunchGrid LogSumExpGrid(int rows) {
  return {{rows, 1, 1}, kVocabThreads, kSumResults + kSumReduced * kWideBytes};
}

// Draws and scores: the keys at which a border is sought in one pass, and how few tokens are
// gathered into shared memory.
inline constexpr int kProbes = 3;
inline constexpr int kReduced = 2 * kProbes;
inline constexpr int kGatherTokens = 2048;
inline constexpr int kMaxScoreCandidates = kGatherTokens;
inline constexpr int kResultsAt = PartialBytes(kReduced);
inline constexpr int kPartsAt = kResultsAt + kReduced * kWideBytes;  // [kVocabWarps] of 8 bytes
inline constexpr int kKeysAt = kPartsAt + kVocabWarps * kWideBytes;
inline constexpr int kWeightsAt = kKeysAt + kGatherTokens * kWideBytes;
inline constexpr int kRowBytes = kWeightsAt + kGatherTokens * static_cast<int>(sizeof(float));

constexpr LaunchGrid VocabRowGrid(int items) { return {{items, 1, 1}, kVocabThreads, kRowBytes}; }

static_assert(kTileTokens % kSumLanes == 0 && PartialBytes(kSumReduced) <= kSumResults);
static_assert(kReduced <= kVocabWarps);

}  // namespace m1::cuda
