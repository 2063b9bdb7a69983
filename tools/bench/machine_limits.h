// What this machine can do at most right now: how fast its cores read memory and how fast they
// multiply, on a number of threads at once. Each figure is that of the best of several loops, and of
// a loop the median pass: the rate that lasts, as what is compared with it lasts. On a shared
// machine the figures swing within seconds: measure before and after.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace m1 {

struct MachineLimits {
  int num_threads = 0;
  double read_bytes_per_s = 0;   // memory
  double cache_bytes_per_s = 0;  // first-level cache
  double fp32_flops_per_s = 0;   // fused multiply-adds of fp32, 2 operations each
  double pair_flops_per_s = 0;   // of bf16 pairs: vdpbf16ps where there is one
  std::string read_loop;         // which won
};

// The better of each figure.
MachineLimits BestOf(const MachineLimits& a, const MachineLimits& b);

// Holds the memory that is read (256 MiB a thread), so that a measurement costs `seconds_per_loop`
// a loop and nothing else. Not thread-safe.
class LimitsProbe {
 public:
  // `num_threads` in 1..1024; `cpu_target` as for CreateCpuBackend: whose multiplications count
  // ("": all that the machine has).
  LimitsProbe(int num_threads, const std::string& cpu_target);
  ~LimitsProbe();

  // `seconds_per_loop`: at least one pass is made.
  MachineLimits Measure(double seconds_per_loop);

 private:
  struct Memory;
  const int num_threads_;
  const std::string cpu_target_;
  const std::unique_ptr<Memory> memory_;
};

}  // namespace m1
