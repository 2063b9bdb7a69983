// A lightning and a softmax layer with their experts through ForwardPass, as a worker runs them, on
// one GPU: integers as weights, made in its memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/kernels/cuda/runtime.h"
#include "common/model/config.h"
#include "tests/bench/gpu_memory.h"

namespace m1 {

struct LayerPairOptions {
  std::vector<int64_t> decode_rows = {1, 8, 32};  // of as many sequences
  std::vector<int64_t> prefill_rows = {512, 2048};
  int64_t context = 4096;  // of decode
  int steps = 32;          // of a measurement of decode: one fold of the states
  int repeats = 5;
};

struct LayerPairFigure {
  std::string phase;  // "decode", "decode with head", "prefill"; "..., no graphs"
  int64_t rows = 0;
  double seconds = 0;  // of the median step, by the host's clock

  double tokens_per_s() const { return static_cast<double>(rows) / seconds; }
};

// `config` with one layer of each kind. `weights` is filled; it must hold all of them.
absl::StatusOr<std::vector<LayerPairFigure>> MeasureLayerPair(const ModelConfig& config,
                                                              KernelBackend* backend,
                                                              cuda::Stream stream,
                                                              GpuMemory* weights,
                                                              const LayerPairOptions& options);

}  // namespace m1
