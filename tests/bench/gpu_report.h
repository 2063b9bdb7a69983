// What gpu_bench found, as a table for people and as JSON for programs.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/gpu_bench.h"
#include "tests/bench/gpu_layer_pair.h"

namespace m1 {

struct GpuReport {
  cuda::GpuDescription gpu;
  GpuCeilings ceilings;
  std::vector<GpuFigure> figures;
  std::vector<LayerPairFigure> layer_pair;
  std::vector<std::string> errors;
};

// The better of two measurements.
GpuCeilings BestOf(const GpuCeilings& a, const GpuCeilings& b);

// Figures above a ceiling: either is wrong, and so is the run.
std::vector<std::string> ImpossibleFigures(const GpuReport& report);

std::string TableOf(const GpuReport& report);
// {"gpu", "ceilings", "kernels", "layer_pair", "errors"}; the unit is part of a key's name.
std::string JsonOf(const GpuReport& report);

}  // namespace m1
