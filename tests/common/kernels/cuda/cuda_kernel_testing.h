// What the suites of kernel bodies share: a launch in the simulator that must go without a fault,
// and outputs that must be written exactly once.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <span>
#include <vector>

#include "common/kernels/exact_math.h"
#include "common/tensor/tensor.h"
#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/cuda_simulator.h"

namespace m1::cuda {

inline LaunchShape ShapeOf(const LaunchGrid& grid) {
  return {grid.blocks, grid.threads, grid.shared_bytes};
}

template <typename T>
std::span<const T> Elements(const Tensor& tensor) {
  return {tensor.view().data_as<T>(), static_cast<size_t>(tensor.view().num_elements())};
}
template <typename T>
std::span<T> Elements(Tensor& tensor) {
  return {tensor.view().data_as<T>(), static_cast<size_t>(tensor.view().num_elements())};
}

// Runs the kernel with subnormals flushed. Faults fail the test; bank conflicts, too.
inline SimulationReport RunClean(const LaunchGrid& grid, SimulatedMemory& memory,
                                 const std::function<void(SimulatedThread&)>& kernel) {
  const ScopedFlushDenormals flush;
  const SimulationReport report = Simulate(ShapeOf(grid), memory, kernel);
  for (const std::string& error : report.errors) ADD_FAILURE() << error;
  EXPECT_EQ(report.bank_conflicts, 0);
  return report;
}

template <typename T>
void ExpectWritten(const SimulatedMemory& memory, std::span<const T> out, int times) {
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(memory.CountWrites(&out[i], sizeof(T)), times) << "element " << i;
  }
}

}  // namespace m1::cuda
