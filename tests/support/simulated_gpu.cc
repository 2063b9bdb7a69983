#include "tests/support/simulated_gpu.h"

#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/product_kernel.h"
#include "common/kernels/cuda/quant_kernel.h"
#include "common/kernels/cuda/quant_rows_kernel.h"
#include "common/kernels/cuda/row_bodies.h"
#include "common/kernels/cuda/runtime.h"
#include "common/kernels/cuda/softmax_kernel.h"
#include "common/kernels/cuda/vocab_kernels.h"
#include "common/kernels/exact_math.h"
#include "tests/support/cuda_simulator.h"
#include "tests/support/gpu_under_test.h"

namespace m1 {

bool OnRealGpu() { return false; }

}  // namespace m1

namespace m1::cuda {
namespace {

// cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorInvalidConfiguration,
// cudaErrorIllegalAddress
constexpr LaunchError kInvalidValue = 1;
constexpr LaunchError kNoMemory = 2;
constexpr LaunchError kInvalidConfiguration = 9;
constexpr LaunchError kFault = 700;

// Set by a handler of signals.
std::atomic<bool> lose_device = false;
static_assert(std::atomic<bool>::is_always_lock_free);

// Addresses are never used again, so that what was freed cannot be touched unseen.
class SimulatedGpu {
 public:
  SimulatedGpu()
      : base_(static_cast<std::byte*>(mmap(nullptr, kAddressBytes, PROT_NONE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base_ == MAP_FAILED) std::abort();
  }

  LaunchError Allocate(size_t bytes, void** data) {
    const size_t pages = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    if (stats_.allocated_bytes + static_cast<int64_t>(bytes) > kSimulatedGpuBytes ||
        pages > kAddressBytes - used_) {
      return kNoMemory;
    }
    *data = base_ + used_;
    used_ += pages;
    memory_.AddDevice(*data, bytes);
    blocks_[*data] = bytes;
    stats_.allocated_bytes += static_cast<int64_t>(bytes);
    return 0;
  }

  void Free(void* data) {
    const auto block = blocks_.find(data);
    if (block == blocks_.end()) return;
    Drain();
    memory_.RemoveDevice(data);
    stats_.allocated_bytes -= static_cast<int64_t>(block->second);
    madvise(data, block->second, MADV_DONTNEED);
    blocks_.erase(block);
  }

  LaunchError Enqueue(std::function<void()> work) {
    queue_.push_back(std::move(work));
    return State();
  }

  // Does all that was enqueued, up to a fault.
  LaunchError Drain() {
    if (State() != 0 || queue_.empty()) return State();
    Protect(PROT_READ | PROT_WRITE);
    for (const std::function<void()>& work : std::exchange(queue_, {})) {
      if (fault_.empty()) work();
    }
    Protect(PROT_NONE);
    return State();
  }

  void Run(const LaunchGrid& grid, const std::function<void(SimulatedThread&)>& kernel) {
    const ScopedFlushDenormals flush;
    const SimulationReport report =
        Simulate({grid.blocks, grid.threads, grid.shared_bytes}, memory_, kernel);
    ++stats_.launches;
    stats_.mmas += report.mmas;
    stats_.bank_conflicts += report.bank_conflicts;
    if (!report.errors.empty()) fault_ = "cudaErrorIllegalAddress: " + report.errors.front();
  }

  void Reset() {
    queue_.clear();
    fault_.clear();
    lose_device = false;
  }
  const char* fault() const { return fault_.c_str(); }
  const SimulatedGpuStats& stats() const { return stats_; }

 private:
  LaunchError State() {
    if (fault_.empty() && lose_device) fault_ = "cudaErrorLaunchFailure";
    return fault_.empty() ? 0 : kFault;
  }

  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kAddressBytes = size_t{1} << 36;

  void Protect(int access) {
    if (used_ > 0 && mprotect(base_, used_, access) != 0) std::abort();
  }

  std::byte* const base_;
  size_t used_ = 0;
  SimulatedMemory memory_;
  std::map<void*, size_t> blocks_;
  std::vector<std::function<void()>> queue_;
  std::string fault_;
  SimulatedGpuStats stats_;
};

SimulatedGpu& Gpu() {
  static auto* gpu = new SimulatedGpu;  // outlives tensors of static storage
  return *gpu;
}

template <typename Args, typename Body>
LaunchError Launch(const LaunchGrid& grid, const Args& args, Body body) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0) return 0;
  if (!IsLaunchable(grid)) return kInvalidConfiguration;
  return Gpu().Enqueue([grid, args, body] {
    Gpu().Run(grid, [&](SimulatedThread& thread) { body(thread, args); });
  });
}

template <typename Body, typename Args>
LaunchError LaunchBody(const LaunchGrid& grid, const Args& args) {
  return Launch(grid, args, [](SimulatedThread& thread, const Args& a) { Body::Run(thread, a); });
}

template <typename One, typename Few, typename Many, typename Out>
LaunchError LaunchProduct(const ProductArgs& args) {
  return ForShape<One, Few, Many>(args, [&]<typename Shape>() {
    return Launch(ProductGrid<Shape>(args), args,
                  [](SimulatedThread& thread, const ProductArgs& a) {
                    ProductKernel<Shape, Out>(thread, a);
                  });
  });
}

template <typename Shape, typename Out>
LaunchError LaunchQuantProduct(const QuantProductArgs& args) {
  return Launch(ProductGrid<Shape>(args), args,
                [](SimulatedThread& thread, const QuantProductArgs& a) {
                  QuantProductKernel<Shape, Out>(thread, a);
                });
}

template <typename Act>
LaunchError LaunchQuantize(const QuantizeRowsArgs<Act>& args, int rows) {
  if (!TakesQuantRows(args.order, args.k)) return kInvalidValue;
  return Launch(QuantizeRowsGrid(rows), args,
                [](SimulatedThread& thread, const QuantizeRowsArgs<Act>& a) {
                  QuantizeRowsKernel<Act>(thread, a);
                });
}

}  // namespace

SimulatedGpuStats GetSimulatedGpuStats() { return Gpu().stats(); }
void LoseSimulatedGpu() { lose_device = true; }
void ResetSimulatedGpu() { Gpu().Reset(); }

// runtime.h
LaunchError OpenStream(Stream* stream) {
  signal(SIGUSR1, [](int) { LoseSimulatedGpu(); });
  *stream = nullptr;
  return 0;
}
void CloseStream(Stream) {}
LaunchError AllocateDevice(size_t bytes, void** data) { return Gpu().Allocate(bytes, data); }
void FreeDevice(void* data) { Gpu().Free(data); }
LaunchError AvailableDeviceBytes(size_t* bytes) {
  *bytes = static_cast<size_t>(kSimulatedGpuBytes - Gpu().stats().allocated_bytes);
  return 0;
}
LaunchError AllocatePinned(size_t bytes, void** data) {
  *data = std::malloc(bytes);
  return *data == nullptr ? kNoMemory : 0;
}
void FreePinned(void* data) { std::free(data); }
LaunchError CopyFromPinned(void* device, const void* pinned, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memcpy(device, pinned, bytes); });
}
LaunchError ToDevice(void* device, const void* host, size_t bytes, Stream) {
  const LaunchError error = Gpu().Enqueue([=] { std::memcpy(device, host, bytes); });
  return error != 0 ? error : Gpu().Drain();
}
LaunchError ToHost(void* host, const void* device, size_t bytes, Stream) {
  const LaunchError error = Gpu().Enqueue([=] { std::memcpy(host, device, bytes); });
  return error != 0 ? error : Gpu().Drain();
}
LaunchError FillZero(void* device, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memset(device, 0, bytes); });
}
LaunchError Synchronize(Stream) { return Gpu().Drain(); }
const char* ErrorName(LaunchError error) {
  switch (error) {
    case kFault:
      return Gpu().fault();
    case kNoMemory:
      return "cudaErrorMemoryAllocation";
    case kInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    default:
      return "cudaErrorInvalidValue";
  }
}

// launch.h
LaunchError LaunchLinear(const ProductArgs& args, OutType out, Stream) {
  return out == OutType::kF32 ? LaunchProduct<LinearOne, LinearFew, LinearMany, float>(args)
                              : LaunchProduct<LinearOne, LinearFew, LinearMany, Bf16>(args);
}
LaunchError LaunchGatedUp(const ProductArgs& args, Stream) {
  return LaunchProduct<GatedOne, GatedFew, GatedMany, Bf16>(args);
}
LaunchError LaunchSplitLinear(const ProductArgs& args, Stream) {
  return LaunchProduct<SplitOne, SplitFew, SplitMany, float>(args);
}
LaunchError LaunchCopyRows(const CopyRowsArgs& args, int word_bytes, Stream) {
  if (word_bytes == 16) return LaunchBody<CopyRows<Words4>>(GridOf(args), args);
  return word_bytes == 4 ? LaunchBody<CopyRows<uint32_t>>(GridOf(args), args)
                         : LaunchBody<CopyRows<unsigned char>>(GridOf(args), args);
}
LaunchError LaunchDot(const DotArgs& args, Stream) { return LaunchBody<Dot>(GridOf(args), args); }
LaunchError LaunchEmbed(const EmbedArgs<float>& args, Stream) {
  return LaunchBody<Embed>(GridOf(args), args);
}
LaunchError LaunchEmbed(const EmbedArgs<Bf16>& args, Stream) {
  return LaunchBody<Embed>(GridOf(args), args);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<float>& args, int rows, Stream) {
  return LaunchBody<RmsNorm>(RmsNormGrid(rows), args);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<Bf16>& args, int rows, Stream) {
  return LaunchBody<RmsNorm>(RmsNormGrid(rows), args);
}
LaunchError LaunchRound(const RoundArgs<Bf16>& args, Stream) {
  return LaunchBody<Round>(GridOf(args), args);
}
LaunchError LaunchSplit(const SplitArgs& args, Stream) {
  return LaunchBody<Split>(GridOf(args), args);
}
LaunchError LaunchScaledAdd(const ScaledAddArgs& args, Stream) {
  return LaunchBody<ScaledAdd>(GridOf(args), args);
}
LaunchError LaunchSigmoidMul(const SigmoidMulArgs<Bf16>& args, Stream) {
  return LaunchBody<SigmoidMul>(GridOf(args), args);
}
LaunchError LaunchTopKGate(const TopKGateArgs& args, Stream) {
  return LaunchBody<TopKGate>(TopKGateGrid(args.rows), args);
}
LaunchError LaunchCombine(const CombineArgs<Bf16>& args, Stream) {
  return LaunchBody<Combine>(GridOf(args), args);
}
LaunchError LaunchSharedMix(const SharedMixArgs& args, Stream) {
  return LaunchBody<SharedMix>(GridOf(args), args);
}
LaunchError LaunchRotary(const RotaryArgs<Bf16>& args, Stream) {
  return LaunchBody<Rotary>(GridOf(args), args);
}
LaunchError LaunchAppendKv(const AppendKvArgs<Bf16>& args, Stream) {
  return LaunchBody<AppendKv>(GridOf(args), args);
}
LaunchError LaunchSoftmaxFew(const SoftmaxArgs& args, Stream) {
  const LaunchError error = ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxFew<head_dim>;
    return Launch(SoftmaxSegmentsGrid<Shape>(args), args,
                  [](SimulatedThread& thread, const SoftmaxArgs& a) {
                    SoftmaxSegmentsKernel<Shape>(thread, a);
                  });
  });
  if (error != 0) return error;
  return Launch(SoftmaxMergeGrid(args), args, [](SimulatedThread& thread, const SoftmaxArgs& a) {
    SoftmaxMergeKernel(thread, a);
  });
}
LaunchError LaunchSoftmaxMany(const SoftmaxArgs& args, Stream) {
  return ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxMany<head_dim>;
    return Launch(SoftmaxPromptGrid<Shape>(args), args,
                  [](SimulatedThread& thread, const SoftmaxArgs& a) {
                    SoftmaxPromptKernel<Shape>(thread, a);
                  });
  });
}
LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<float>& args, int rows, Stream) {
  return LaunchQuantize(args, rows);
}
LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<Bf16>& args, int rows, Stream) {
  return LaunchQuantize(args, rows);
}
LaunchError LaunchQuantLinear(const QuantProductArgs& args, OutType out, Stream) {
  if (!TakesQuantArgs(args)) return kInvalidValue;
  return ForQuantLinear(args, [&]<typename Shape>() {
    return out == OutType::kF32 ? LaunchQuantProduct<Shape, float>(args)
                                : LaunchQuantProduct<Shape, Bf16>(args);
  });
}
LaunchError LaunchQuantGatedUp(const QuantProductArgs& args, Stream) {
  if (!TakesQuantArgs(args)) return kInvalidValue;
  return ForQuantGated(args,
                       [&]<typename Shape>() { return LaunchQuantProduct<Shape, Bf16>(args); });
}
LaunchError LaunchLogSumExp(const LogSumExpArgs& args, Stream) {
  return LaunchBody<LogSumExp>(LogSumExpGrid(args.rows), args);
}
LaunchError LaunchDraw(const DrawArgs& args, Stream) {
  return LaunchBody<Draw>(VocabRowGrid(args.num_draws), args);
}
LaunchError LaunchScore(const ScoreArgs& args, Stream) {
  return LaunchBody<Score>(VocabRowGrid(args.num_requests), args);
}
LaunchError LaunchLightning(const LightningArgs<Bf16>& args, LightningRows rows, Stream) {
  return rows == LightningRows::kDecode ? LaunchBody<LightningDecode>(GridOf(args, rows), args)
                                        : LaunchBody<LightningPrompt>(GridOf(args, rows), args);
}

}  // namespace m1::cuda
