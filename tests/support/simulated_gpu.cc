#include "tests/support/simulated_gpu.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/measure.h"
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
#include "tests/support/simulated_pinned.h"

namespace m1 {

bool OnRealGpu() { return false; }

}  // namespace m1

namespace m1::cuda {

// On the device's clock: milliseconds, of which a launch takes one.
struct TimestampEvent {
  struct Passage {
    int64_t at = 0;
    bool is_passed = false;
  };
  std::shared_ptr<Passage> passage;  // of the last record, whose work may outlive this
};

namespace {

// What a stream was given and has not done. Work that gives false cannot be done yet.
struct WorkQueue {
  std::deque<SimulatedWork> work;
  uint64_t num_done = 0;

  uint64_t end() const { return num_done + work.size(); }
};

}  // namespace
}  // namespace m1::cuda

// Transfer streams; a null stream is the one of kernels.
struct CUstream_st {
  std::shared_ptr<m1::cuda::WorkQueue> queue = std::make_shared<m1::cuda::WorkQueue>();
};

struct CUevent_st {
  std::shared_ptr<m1::cuda::WorkQueue> queue;
  uint64_t mark = 0;
};

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
    const std::lock_guard lock(mutex_);
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
    CountAllocation();
    return 0;
  }

  void CountAllocation() { ++stats_.allocations; }

  void Free(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(data);
    if (block == blocks_.end()) return;
    Advance(*kernels_, kernels_->end());
    memory_.RemoveDevice(data);
    stats_.allocated_bytes -= static_cast<int64_t>(block->second);
    madvise(data, block->second, MADV_DONTNEED);
    blocks_.erase(block);
  }

  std::shared_ptr<WorkQueue> QueueOf(Stream stream) {
    return stream == nullptr ? kernels_ : stream->queue;
  }

  LaunchError Enqueue(Stream stream, SimulatedWork work) {
    const std::lock_guard lock(mutex_);
    QueueOf(stream)->work.push_back(std::move(work));
    return State();
  }
  LaunchError Enqueue(std::function<void()> work) {
    return Enqueue(nullptr, [work = std::move(work)] {
      work();
      return true;
    });
  }

  // Does all that the stream was given, up to a fault; waits for what cannot be done yet.
  LaunchError Drain(Stream stream = nullptr) {
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        const std::shared_ptr<WorkQueue> queue = QueueOf(stream);
        if (State() != 0 || Advance(*queue, queue->end())) return State();
      }
      usleep(50);
    }
  }

  void Record(CUevent_st* event, Stream stream) {
    const std::lock_guard lock(mutex_);
    event->queue = QueueOf(stream);
    event->mark = event->queue->end();
  }
  LaunchError Query(const CUevent_st& event, bool* done) {
    const std::lock_guard lock(mutex_);
    *done = event.queue == nullptr || Advance(*event.queue, event.mark);
    return State();
  }
  // As of now: the event may be recorded again.
  LaunchError Wait(Stream stream, const CUevent_st& event) {
    return Enqueue(stream, [this, queue = event.queue, mark = event.mark] {
      return queue == nullptr || Advance(*queue, mark);
    });
  }
  void Close(Stream stream) {
    const std::lock_guard lock(mutex_);
    stream->queue->num_done = stream->queue->end();
    stream->queue->work.clear();
    delete stream;
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
    const std::lock_guard lock(mutex_);
    kernels_->num_done = kernels_->end();
    kernels_->work.clear();
    fault_.clear();
    lose_device = false;
  }
  const char* fault() const { return fault_.c_str(); }
  SimulatedGpuStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  LaunchError State() {
    if (fault_.empty() && lose_device) fault_ = "cudaErrorLaunchFailure";
    return fault_.empty() ? 0 : kFault;
  }

  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kAddressBytes = size_t{1} << 36;

  // Does the queue's work up to the mark. False when some of it cannot be done yet.
  bool Advance(WorkQueue& queue, uint64_t mark) {
    if (queue.num_done >= mark) return true;
    if (depth_++ == 0) Protect(PROT_READ | PROT_WRITE);
    while (queue.num_done < mark && (!fault_.empty() || queue.work.front()())) {
      queue.work.pop_front();
      ++queue.num_done;
    }
    if (--depth_ == 0) Protect(PROT_NONE);
    return queue.num_done >= mark;
  }

  void Protect(int access) {
    if (used_ > 0 && mprotect(base_, used_, access) != 0) std::abort();
  }

  std::byte* const base_;
  mutable std::recursive_mutex mutex_;
  int depth_ = 0;  // of Advance, which one stream's work may call for another's
  size_t used_ = 0;
  SimulatedMemory memory_;
  std::map<void*, size_t> blocks_;
  const std::shared_ptr<WorkQueue> kernels_ = std::make_shared<WorkQueue>();
  std::string fault_;
  SimulatedGpuStats stats_;
};

SimulatedGpu& Gpu() {
  static auto* gpu = new SimulatedGpu;  // outlives tensors of static storage
  return *gpu;
}

PinnedRanges& Pinned() {
  static auto* pinned = new PinnedRanges;
  return *pinned;
}

SimulatedWork Copy(void* to, const void* from, size_t bytes) {
  return [=] {
    std::memcpy(to, from, bytes);
    return true;
  };
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

SimulatedGpuStats GetSimulatedGpuStats() {
  SimulatedGpuStats stats = Gpu().stats();
  stats.pinned_bytes = Pinned().num_bytes();
  stats.pageable_copies = Pinned().num_pageable_copies();
  return stats;
}
void LimitPinnedMemory(int64_t bytes) { Pinned().set_limit(bytes); }
void LoseSimulatedGpu() { lose_device = true; }
void ResetSimulatedGpu() { Gpu().Reset(); }
LaunchError EnqueueSimulated(Stream stream, SimulatedWork work) {
  return Gpu().Enqueue(stream, std::move(work));
}

// runtime.h
LaunchError OpenStream(Stream* stream) {
  signal(SIGUSR1, [](int) { LoseSimulatedGpu(); });
  *stream = nullptr;
  return 0;
}
void CloseStream(Stream stream) {
  if (stream != nullptr) Gpu().Close(stream);
}
LaunchError AllocateDevice(size_t bytes, void** data) { return Gpu().Allocate(bytes, data); }
void FreeDevice(void* data) { Gpu().Free(data); }
LaunchError AvailableDeviceBytes(size_t* bytes) {
  *bytes = static_cast<size_t>(kSimulatedGpuBytes - Gpu().stats().allocated_bytes);
  return 0;
}
LaunchError AllocatePinned(size_t bytes, void** data) {
  Gpu().CountAllocation();
  *data = std::malloc(bytes);
  if (*data != nullptr && Pinned().Add(*data, bytes)) return 0;
  std::free(*data);
  *data = nullptr;
  return kNoMemory;
}
void FreePinned(void* data) {
  if (data == nullptr) return;
  if (!Pinned().Remove(data)) std::abort();
  std::free(data);
}
LaunchError RegisterPinned(void* data, size_t bytes) {
  return Pinned().Add(data, bytes) ? 0 : kNoMemory;
}
void UnregisterPinned(void* data) {
  if (!Pinned().Remove(data)) std::abort();
}
LaunchError CopyFromPinned(void* device, const void* pinned, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memcpy(device, pinned, bytes); });
}
LaunchError ToDevice(void* device, const void* host, size_t bytes, Stream stream) {
  Pinned().CountCopy(host, bytes);
  const LaunchError error = Gpu().Enqueue(stream, Copy(device, host, bytes));
  return error != 0 ? error : Gpu().Drain(stream);
}
LaunchError ToHost(void* host, const void* device, size_t bytes, Stream stream) {
  Pinned().CountCopy(host, bytes);
  const LaunchError error = Gpu().Enqueue(stream, Copy(host, device, bytes));
  return error != 0 ? error : Gpu().Drain(stream);
}
LaunchError FillZero(void* device, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memset(device, 0, bytes); });
}
LaunchError Synchronize(Stream stream) { return Gpu().Drain(stream); }
LaunchError OpenTransferStream(Stream* stream) {
  *stream = new CUstream_st;
  return 0;
}
LaunchError NewEvent(Event* event) {
  *event = new CUevent_st;
  return 0;
}
void FreeEvent(Event event) { delete event; }
LaunchError RecordEvent(Event event, Stream stream) {
  Gpu().Record(event, stream);
  return 0;
}
LaunchError WaitEvent(Stream stream, Event event) { return Gpu().Wait(stream, *event); }
LaunchError QueryEvent(Event event, bool* done) { return Gpu().Query(*event, done); }
LaunchError NewTimestamp(Timestamp* timestamp) {
  *timestamp = new TimestampEvent;
  return 0;
}
void FreeTimestamp(Timestamp timestamp) { delete timestamp; }
LaunchError RecordTimestamp(Timestamp timestamp, Stream) {
  timestamp->passage = std::make_shared<TimestampEvent::Passage>();
  return Gpu().Enqueue([passage = timestamp->passage] {
    *passage = {Gpu().stats().launches, true};
  });
}
LaunchError Elapsed(Timestamp begin, Timestamp end, bool* is_passed, float* milliseconds) {
  *is_passed = end->passage->is_passed;
  *milliseconds = static_cast<float>(end->passage->at - begin->passage->at);
  return 0;
}
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

// measure.h: times are those of the simulator.
LaunchError DescribeGpu(GpuDescription* description) {
  std::strcpy(description->name, "simulated GPU");
  description->capability = 0;
  description->multiprocessors = 1;
  return 0;
}
struct Stopwatch {
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point end;
};
LaunchError OpenStopwatch(Stopwatch** stopwatch) {
  *stopwatch = new Stopwatch;
  return 0;
}
void CloseStopwatch(Stopwatch* stopwatch) { delete stopwatch; }
LaunchError StartStopwatch(Stopwatch* stopwatch, Stream) {
  return Gpu().Enqueue([=] { stopwatch->begin = std::chrono::steady_clock::now(); });
}
LaunchError StopStopwatch(Stopwatch* stopwatch, Stream) {
  return Gpu().Enqueue([=] { stopwatch->end = std::chrono::steady_clock::now(); });
}
LaunchError ReadStopwatch(const Stopwatch& stopwatch, double* seconds) {
  const LaunchError error = Gpu().Drain();
  *seconds = std::chrono::duration<double>(stopwatch.end - stopwatch.begin).count();
  return error;
}
LaunchError CopyOnDevice(void* to, const void* from, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memcpy(to, from, bytes); });
}
LaunchError LaunchPeak(PeakKind kind, const PeakArgs& args, Stream) {
  switch (kind) {
    case PeakKind::kBf16:
      return LaunchBody<Peak<PeakKind::kBf16>>(MeasureGrid(args), args);
    case PeakKind::kInt8:
      return LaunchBody<Peak<PeakKind::kInt8>>(MeasureGrid(args), args);
    case PeakKind::kFloat:
      return LaunchBody<Peak<PeakKind::kFloat>>(MeasureGrid(args), args);
  }
  return kInvalidValue;
}
LaunchError LaunchReadAll(const ReadArgs& args, Stream) {
  return LaunchBody<ReadAll>(MeasureGrid(args), args);
}

}  // namespace m1::cuda
