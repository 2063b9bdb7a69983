// Speed of the CPU kernels at MiniMax-M1's sizes, next to what the machine can do at most: a loop
// of multiplications on registers and a read of memory, measured in the same run.
//
//   kernel_bench [threads [target]]
//
// With one thread times are CPU times, so that the machine's other work counts less. A line is:
// case, best time, GFLOP/s and its part of the peak, GB/s and its part of the read.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

#include "common/base/check.h"
#include "common/kernels/cpu/targets.h"
#include "common/kernels/cpu_backend.h"
#include "common/tensor/tensor.h"

namespace m1 {
namespace {

constexpr double kSecondsPerCase = 0.3;
constexpr int64_t kHidden = 6144;
constexpr int64_t kHeads = 64;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kHeadDim = 128;

// Seconds on `clock`.
double Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Runs `run(thread)` on that many threads at once.
void OnThreads(int num_threads, absl::FunctionRef<void(int thread)> run) {
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back([&, t] { run(t); });
  run(0);
  for (std::thread& thread : threads) thread.join();
}

// What a case works on, per run.
struct Work {
  double flops;
  double bytes;
};

class Bench {
 public:
  Bench(int num_threads, const std::string& target_name)
      : clock_(num_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC),
        backend_(CreateCpuBackend({.num_threads = num_threads, .target = target_name}).value()) {
    for (const CpuTarget& target : CpuTargets()) {
      if (backend_->name() == target.name) MeasureMachine(num_threads, *target.kernels);
    }
    std::printf(
        "target %s, %d threads: fp32 %.0f GFLOP/s, bf16 pairs %.0f GFLOP/s, read %.1f GB/s\n",
        target_name.empty() ? backend_->name().c_str() : target_name.c_str(), num_threads,
        peak_fp32_ * 1e-9, peak_bf16_ * 1e-9, read_ * 1e-9);
  }

  void Run() {
    for (const int64_t rows : {1, 2, 4, 8, 16, 64, 256}) Linear(DType::kBf16, rows);
    for (const int64_t rows : {1, 64}) Linear(DType::kF32, rows);
    ExpertFfn(8, 1);
    ExpertFfn(2, 128);
    Lightning(1);
    Lightning(256);
    Softmax(1, 4096);
    Softmax(256, 4096);
    RmsNorm(64);
  }

 private:
  // Seconds of the fastest run.
  double Time(absl::FunctionRef<void()> run) const {
    run();
    double best = 1e9;
    const double end = Now(clock_) + kSecondsPerCase;
    do {
      const double begin = Now(clock_);
      run();
      best = std::min(best, Now(clock_) - begin);
    } while (Now(clock_) < end);
    return best;
  }

  void MeasureMachine(int num_threads, const KernelTable& kernels) {
    constexpr int64_t kSteps = 1'000'000;
    const double flops = 2.0 * 16 * kLoopSums * kSteps * num_threads;
    const auto loop = [&](bool in_pairs) {
      return Time([&] {
        OnThreads(num_threads, [&](int) {
          float out[16];
          kernels.multiply_loop(in_pairs, kSteps, out);
        });
      });
    };
    peak_fp32_ = flops / loop(false);
    peak_bf16_ = 2.0 * flops / loop(true);
    constexpr int64_t kWords = int64_t{32} << 20;  // 256 MiB a thread
    std::vector<uint64_t> words(static_cast<size_t>(kWords * num_threads), 1);
    read_ = static_cast<double>(words.size() * sizeof(uint64_t)) / Time([&] {
              OnThreads(num_threads, [&](int thread) {
                const uint64_t* from = words.data() + thread * kWords;
                uint64_t sums[4] = {};
                for (int64_t i = 0; i < kWords; i += 4) {
                  for (int j = 0; j < 4; ++j) sums[j] += from[i + j];
                }
                if (sums[0] + sums[1] + sums[2] + sums[3] == 0) std::abort();
              });
            });
  }

  void Report(const std::string& name, DType type, Work work, absl::FunctionRef<absl::Status()> f) {
    const double seconds = Time([&] { M1_CHECK(f().ok()); });
    const double peak = type == DType::kBf16 ? peak_bf16_ : peak_fp32_;
    std::printf("%-38s %10.1f us %8.1f GFLOP/s (%3.0f %%) %7.1f GB/s (%3.0f %%)\n", name.c_str(),
                seconds * 1e6, work.flops / seconds * 1e-9, 100 * work.flops / seconds / peak,
                work.bytes / seconds * 1e-9, 100 * work.bytes / seconds / read_);
    std::fflush(stdout);
  }

  // Ones, so that nothing overflows; the speed does not depend on values.
  static Tensor Ones(DType type, const Shape& shape) {
    Tensor tensor(type, shape);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      if (type == DType::kBf16) {
        tensor.data_as<Bf16>()[i] = FloatToBf16(1.0f / 64);
      } else {
        tensor.data_as<float>()[i] = 1.0f / 64;
      }
    }
    return tensor;
  }

  void Linear(DType type, int64_t rows) {
    const Tensor x = Ones(type, {rows, kHidden});
    const Tensor w = Ones(DType::kBf16, {kHidden, kHidden});
    Tensor out(DType::kF32, {rows, kHidden});
    const double terms = static_cast<double>(rows * kHidden * kHidden);
    Report("linear " + std::to_string(rows) + " x 6144 x 6144 " + DTypeText(type), type,
           {2 * terms, static_cast<double>(w.view().num_bytes())},
           [&] { return backend_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()); });
  }

  void ExpertFfn(int64_t experts, int64_t rows) {
    constexpr int64_t kExpertHidden = 2048;
    constexpr int64_t kIntermediate = 3072;
    std::vector<Tensor> weights;
    std::vector<ExpertGroup> groups;
    for (int64_t e = 0; e < experts; ++e) {
      weights.push_back(Ones(DType::kBf16, {kIntermediate, kExpertHidden}));
      weights.push_back(Ones(DType::kBf16, {kExpertHidden, kIntermediate}));
      weights.push_back(Ones(DType::kBf16, {kIntermediate, kExpertHidden}));
    }
    for (int64_t e = 0; e < experts; ++e) {
      const auto weight = [&](int64_t i) -> ConstTensorView {
        return weights[static_cast<size_t>(3 * e + i)].view();
      };
      groups.push_back({e * rows, rows, weight(0), weight(1), weight(2)});
    }
    const int64_t all = experts * rows;
    const Tensor x = Ones(DType::kBf16, {all, kExpertHidden});
    Tensor mid(DType::kBf16, {all, kIntermediate});
    Tensor out(DType::kBf16, {all, kExpertHidden});
    const double terms = 3.0 * static_cast<double>(all * kExpertHidden * kIntermediate);
    Report("expert_ffn " + std::to_string(experts) + " experts x " + std::to_string(rows) + " rows",
           DType::kBf16, {2 * terms, 2 * terms / static_cast<double>(rows)},
           [&] { return backend_->ExpertFfn(x.view(), groups, mid.view(), out.view()); });
  }

  void Lightning(int64_t rows) {
    const Tensor qkv = Ones(DType::kBf16, {rows, kHeads, 3, kHeadDim});
    const Tensor decays = Ones(DType::kF32, {kHeads});
    Tensor out(DType::kF32, {rows, kHeads, kHeadDim});
    Tensor state(DType::kF32, {kHeads, kHeadDim, kHeadDim});
    Tensor k(DType::kBf16, {kHeads, kLightningChunk, kHeadDim});
    Tensor v(DType::kBf16, {kHeads, kLightningChunk, kHeadDim});
    const LightningSequence sequence{
        {0, rows, rows == 1 ? 16 : 0}, state.view(), k.view(), v.view()};
    // q S and the fold; about half a chunk of keys for q k and w v.
    const double per_row = static_cast<double>(kHeads * kHeadDim) * 2 * (2 * kHeadDim + 32);
    Report("lightning_attention " + std::to_string(rows) + " rows", DType::kF32,
           {per_row * static_cast<double>(rows), static_cast<double>(state.view().num_bytes())},
           [&] {
             return backend_->LightningAttention(qkv.view(), decays.view(), {&sequence, 1},
                                                 out.view());
           });
  }

  void Softmax(int64_t rows, int64_t context) {
    const int64_t end = context + rows;
    std::vector<int32_t> table(static_cast<size_t>((end + 63) / 64));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
    const Shape shape{static_cast<int64_t>(table.size()), kKvHeads, kKvBlockTokens, kHeadDim};
    Tensor k = Ones(DType::kBf16, shape);
    Tensor v = Ones(DType::kBf16, shape);
    const Tensor q = Ones(DType::kBf16, {rows, kHeads, kHeadDim});
    Tensor out(DType::kBf16, {rows, kHeads, kHeadDim});
    const PagedSequence sequence{{0, rows, context}, table};
    const auto pairs = static_cast<double>(rows) * static_cast<double>(context + rows / 2);
    Report("softmax_attention " + std::to_string(rows) + " rows at " + std::to_string(context),
           DType::kBf16,
           {4.0 * pairs * kHeads * kHeadDim, 2.0 * static_cast<double>(k.view().num_bytes())}, [&] {
             return backend_->SoftmaxAttention(q.view(), {&sequence, 1}, {k.view(), v.view()},
                                               out.view());
           });
  }

  void RmsNorm(int64_t rows) {
    const Tensor x = Ones(DType::kF32, {rows, kHidden});
    const Tensor weight = Ones(DType::kF32, {kHidden});
    Tensor out(DType::kF32, {rows, kHidden});
    const auto elements = static_cast<double>(rows * kHidden);
    Report("rms_norm " + std::to_string(rows) + " x 6144", DType::kF32,
           {4 * elements, 8 * elements},
           [&] { return backend_->RmsNorm(x.view(), weight.view(), 1e-5f, out.view()); });
  }

  static std::string DTypeText(DType type) { return std::string(DTypeName(type)); }

  const clockid_t clock_;
  const std::unique_ptr<KernelBackend> backend_;
  double peak_fp32_ = 0;
  double peak_bf16_ = 0;
  double read_ = 0;
};

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  m1::Bench(threads, argc > 2 ? argv[2] : "").Run();
  return 0;
}
