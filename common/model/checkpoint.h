// A checkpoint directory: config.json and safetensors (one file, or several with an index), mapped
// read-only. Opening reads headers only; a tensor's pages are touched when somebody uses them, so a
// worker's resident memory is what it owns.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/model/config.h"
#include "common/model/prefetch.h"
#include "common/model/weights.h"

namespace m1 {

// Where weights lie: in the mapped files, or in copies with large pages (weight_copy.h), with the
// files left in the system's page cache or without.
enum class WeightMemory { kMapped, kCopied, kCopiedUncached };

// Immutable after Open, thread-safe. Views handed out live as long as the Checkpoint.
class Checkpoint {
 public:
  // Checks every tensor's name, shape and dtype against the config, for the whole checkpoint.
  // Errors: NotFound (no such directory or file), DataLoss (a missing, doubled, truncated,
  // overlapping or ill-typed tensor, or a malformed header) naming file and tensor, InvalidArgument
  // (config.json).
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);
  ~Checkpoint();

  const ModelConfig& config() const;
  // 64 hex digits: SHA-256 over config, tensor table and 4 KiB out of each tensor. Touches a page
  // or two of every tensor through reads of the file, not through the mapping.
  const std::string& fingerprint() const;
  // "bf16", "fp32", "int8-experts", ... : WeightFormatName of the config.
  const std::string& weight_format() const;

  AttentionWeights attention_weights() const;
  ExpertWeights expert_weights(int32_t layer, int32_t expert) const;
  // Makes a role's bytes resident, and no others (but for what shares their pages), before the
  // first request pays for it. Errors: DataLoss naming the directory when reading fails, or the
  // tensor when a scale of quantised weights is no normal number above 0 (only this looks at them);
  // Cancelled when `progress` returned false; ResourceExhausted when there is no memory for copies.
  // The disk is read in order, about as fast as it can.
  absl::Status PrefetchAttention(const PrefetchProgress& progress = nullptr,
                                 WeightMemory memory = WeightMemory::kMapped) const;
  absl::Status PrefetchExperts(const std::vector<int32_t>& experts,
                               const PrefetchProgress& progress = nullptr,
                               WeightMemory memory = WeightMemory::kMapped) const;
  // Bytes of the tensors that a worker of that role maps.
  int64_t attention_weight_bytes() const;
  int64_t expert_weight_bytes(const std::vector<int32_t>& experts) const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace m1
