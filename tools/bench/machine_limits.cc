#include "tools/bench/machine_limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"

#include "common/base/check.h"
#include "common/kernels/cpu/targets.h"
#include "common/tensor/tensor.h"
#include "tools/bench/median.h"
#include "tools/bench/read_loops.h"

namespace m1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMemoryWords = int64_t{32} << 20;  // 256 MiB a thread
constexpr int64_t kCacheWords = 2048;                // 16 KiB
constexpr int64_t kCachePasses = 4096;               // 64 MiB: about a millisecond
constexpr int64_t kMultiplySteps = 200'000;          // about a millisecond

// Seconds from the first start to the last end of `run` on that many threads at once, without the
// time it takes to make them.
double SecondsOnThreads(int num_threads, absl::FunctionRef<void(int thread)> run) {
  std::vector<Clock::time_point> begins(static_cast<size_t>(num_threads));
  std::vector<Clock::time_point> ends(begins.size());
  std::barrier start(num_threads);
  const auto body = [&](int thread) {
    start.arrive_and_wait();
    begins[static_cast<size_t>(thread)] = Clock::now();
    run(thread);
    ends[static_cast<size_t>(thread)] = Clock::now();
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(body, t);
  body(0);
  for (std::thread& thread : threads) thread.join();
  return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) -
                                       *std::min_element(begins.begin(), begins.end()))
      .count();
}

// Of the median pass: what the machine keeps up. Where neighbours share the memory, a pass of some
// milliseconds now and then is a quarter faster than any second.
double SustainedSeconds(double seconds, int num_threads, absl::FunctionRef<void(int thread)> run) {
  std::vector<double> passes;
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(seconds));
  do {
    passes.push_back(SecondsOnThreads(num_threads, run));
  } while (Clock::now() < end);
  return Median(std::move(passes));
}

}  // namespace

MachineLimits BestOf(const MachineLimits& a, const MachineLimits& b) {
  return {a.num_threads,
          std::max(a.read_bytes_per_s, b.read_bytes_per_s),
          std::max(a.cache_bytes_per_s, b.cache_bytes_per_s),
          std::max(a.fp32_flops_per_s, b.fp32_flops_per_s),
          std::max(a.pair_flops_per_s, b.pair_flops_per_s),
          a.read_bytes_per_s >= b.read_bytes_per_s ? a.read_loop : b.read_loop};
}

struct LimitsProbe::Memory {
  explicit Memory(int num_threads)
      : bytes(static_cast<size_t>(num_threads * kMemoryWords) * sizeof(uint64_t)),
        data(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        sinks(static_cast<size_t>(num_threads)) {
    M1_CHECK(data != MAP_FAILED);
    madvise(data, bytes, MADV_HUGEPAGE);  // a page walk every 2 MiB, where the system grants it
    std::memset(data, 1, bytes);          // not the one page of zeros
  }
  ~Memory() { munmap(data, bytes); }

  const uint64_t* words(int thread) const {
    return static_cast<const uint64_t*>(data) + thread * kMemoryWords;
  }

  const size_t bytes;
  void* const data;
  std::vector<uint64_t> sinks;
};

LimitsProbe::LimitsProbe(int num_threads, const std::string& cpu_target)
    : num_threads_(num_threads),
      cpu_target_(cpu_target),
      memory_(std::make_unique<Memory>(num_threads)) {}

LimitsProbe::~LimitsProbe() = default;

MachineLimits LimitsProbe::Measure(double seconds_per_loop) {
  MachineLimits limits;
  limits.num_threads = num_threads_;
  for (const ReadLoop& loop : ReadLoops()) {
    const double seconds = SustainedSeconds(seconds_per_loop, num_threads_, [&](int thread) {
      memory_->sinks[static_cast<size_t>(thread)] = loop.read(memory_->words(thread), kMemoryWords);
    });
    const double rate = static_cast<double>(memory_->bytes) / seconds;
    if (rate > limits.read_bytes_per_s) {
      limits.read_bytes_per_s = rate;
      limits.read_loop = loop.name;
    }
    const double cached = SustainedSeconds(seconds_per_loop / 4, num_threads_, [&](int thread) {
      uint64_t sum = 0;
      for (int64_t i = 0; i < kCachePasses; ++i) {
        sum ^= loop.read(memory_->words(thread), kCacheWords);
      }
      memory_->sinks[static_cast<size_t>(thread)] = sum;
    });
    limits.cache_bytes_per_s =
        std::max(limits.cache_bytes_per_s,
                 static_cast<double>(num_threads_ * kCachePasses * kCacheWords) * 8.0 / cached);
  }
  const double flops = 2.0 * 16 * kLoopSums * kMultiplySteps * num_threads_;
  for (const CpuTarget& target : CpuTargets()) {
    if ((!cpu_target_.empty() && cpu_target_ != target.name) || !CanRun(target)) continue;
    const auto rate = [&](bool in_pairs) {
      return flops / SustainedSeconds(seconds_per_loop / 2, num_threads_, [&](int) {
               float out[16];
               target.kernels->multiply_loop(in_pairs, kMultiplySteps, out);
             });
    };
    limits.fp32_flops_per_s = std::max(limits.fp32_flops_per_s, rate(false));
    limits.pair_flops_per_s = std::max(limits.pair_flops_per_s, 2 * rate(true));
  }
  return limits;
}

}  // namespace m1
