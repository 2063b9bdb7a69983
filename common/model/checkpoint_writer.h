// Makes checkpoints of random weights that behave like a network: for benchmarks and tests.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"

#include "common/model/weight_names.h"
#include "common/tensor/dtype.h"

namespace m1 {

struct RandomCheckpointOptions {
  std::string config_path = {};  // its text becomes OUT/config.json
  std::string out_dir = {};      // made when absent; must hold no checkpoint yet
  uint64_t seed = 0;
  DType dtype = DType::kBf16;  // of the matrices and norms, bf16 or fp32; router gates are fp32
  // A file's tensors, in bytes; a larger tensor has a file of its own. Absent: one file.
  std::optional<int64_t> max_shard_bytes = std::nullopt;
  ExpertLayout layout = ExpertLayout::kSeparate;  // kFused: model_type minimax only
  // Called with the bytes written and those of all tensors; false stops the work.
  std::function<bool(int64_t done_bytes, int64_t total_bytes)> progress = nullptr;
};

// Matrices are bell-shaped with deviation 1 / sqrt(fan_in) (LM head: three times that), embeddings
// with deviation 1, norms 1 +- 0.1. A value depends on seed, tensor name and index alone, and on no
// library's idea of a distribution: every machine writes the same bytes. Streams; needs a megabyte
// of memory. Errors: those of the config; AlreadyExists; InvalidArgument; Cancelled; Internal with
// the system's message. What was written before an error stays; config.json comes last, so it does
// not open.
absl::Status WriteRandomCheckpoint(const RandomCheckpointOptions& options);

}  // namespace m1
