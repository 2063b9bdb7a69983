// What a token costs at a depth of the context: one lightning layer and one softmax layer, both of
// MiniMax-M1's head size, with the depths in turn so that the machine's moods meet them all.
//
//   depth_bench [heads [target]]
//
// Times are CPU times of one thread: medians over the rounds, per token, beside those at the first
// depth.
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"
#include "common/tensor/tensor.h"

namespace m1 {
namespace {

constexpr int64_t kDepths[] = {4096, 16384, 65536, 262144};
constexpr size_t kNumDepths = std::size(kDepths);
constexpr int64_t kHeadDim = 128;
constexpr int64_t kHeadsPerKvHead = 8;
constexpr int kRounds = 15;

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds of `run(depth)` at each depth.
std::vector<double> Medians(absl::FunctionRef<absl::Status(int64_t depth)> run) {
  std::vector<std::vector<double>> seconds(kNumDepths);
  for (int round = 0; round <= kRounds; ++round) {
    for (size_t i = 0; i < kNumDepths; ++i) {
      const double begin = CpuSeconds();
      M1_CHECK(run(kDepths[i]).ok());
      if (round > 0) seconds[i].push_back(CpuSeconds() - begin);  // the first round warms up
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& times : seconds) {
    std::sort(times.begin(), times.end());
    medians.push_back(times[times.size() / 2]);
  }
  return medians;
}

void Print(const char* layer, int64_t rows, const std::vector<double>& seconds) {
  for (size_t i = 0; i < kNumDepths; ++i) {
    std::printf("%-10s %4d rows at %7d  %10.2f us/token  x %.3f\n", layer, static_cast<int>(rows),
                static_cast<int>(kDepths[i]), seconds[i] / static_cast<double>(rows) * 1e6,
                seconds[i] / seconds[0]);
  }
  std::fflush(stdout);
}

Tensor Filled(DType type, const Shape& shape) {
  Tensor tensor(type, shape);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const float value = static_cast<float>(i % 13 - 6) / 64;
    if (type == DType::kBf16) {
      tensor.data_as<Bf16>()[i] = FloatToBf16(value);
    } else {
      tensor.data_as<float>()[i] = value;
    }
  }
  return tensor;
}

// Many calls a measurement: one decode row of a lightning layer takes microseconds.
void Lightning(KernelBackend& backend, int64_t heads, int64_t rows, int calls) {
  const Tensor qkv = Filled(DType::kBf16, {rows, heads, 3, kHeadDim});
  Tensor decays(DType::kF32, {heads});
  for (int64_t i = 0; i < heads; ++i) decays.data_as<float>()[i] = 0.01f;
  Tensor out(DType::kF32, {rows, heads, kHeadDim});
  Tensor state = Filled(DType::kF32, {heads, kHeadDim, kHeadDim});
  Tensor k = Filled(DType::kBf16, {heads, kLightningChunk, kHeadDim});
  Tensor v = Filled(DType::kBf16, {heads, kLightningChunk, kHeadDim});
  std::vector<double> seconds = Medians([&](int64_t depth) {
    const LightningSequence sequence{{0, rows, depth}, state.view(), k.view(), v.view()};
    absl::Status status;
    for (int i = 0; i < calls && status.ok(); ++i) {
      status = backend.LightningAttention(qkv.view(), decays.view(), {&sequence, 1}, out.view());
    }
    return status;
  });
  for (double& time : seconds) time /= calls;
  Print("lightning", rows, seconds);
}

void Softmax(KernelBackend& backend, int64_t heads, int64_t rows) {
  const int64_t num_blocks = (kDepths[kNumDepths - 1] + rows) / kKvBlockTokens + 1;
  std::vector<int32_t> table(static_cast<size_t>(num_blocks));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
  const Shape shape{num_blocks, heads / kHeadsPerKvHead, kKvBlockTokens, kHeadDim};
  Tensor k = Filled(DType::kBf16, shape);
  Tensor v = Filled(DType::kBf16, shape);
  const Tensor q = Filled(DType::kBf16, {rows, heads, kHeadDim});
  Tensor out(DType::kBf16, {rows, heads, kHeadDim});
  Print(
      "softmax", rows, Medians([&](int64_t depth) {
        const auto used = static_cast<size_t>((depth + rows + kKvBlockTokens - 1) / kKvBlockTokens);
        const PagedSequence sequence{{0, rows, depth}, std::span(table).first(used)};
        return backend.SoftmaxAttention(q.view(), {&sequence, 1}, {k.view(), v.view()}, out.view());
      }));
}

void Run(int64_t heads, const std::string& target) {
  const std::unique_ptr<KernelBackend> backend =
      CreateCpuBackend({.num_threads = 1, .target = target}).value();
  std::printf("target %s, one thread, %d heads of %d\n", backend->name().c_str(),
              static_cast<int>(heads), static_cast<int>(kHeadDim));
  Lightning(*backend, heads, 1, 50);
  Lightning(*backend, heads, 256, 1);
  Softmax(*backend, heads, 1);
  Softmax(*backend, heads, 32);
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  const int64_t heads = argc > 1 ? std::atoi(argv[1]) : 8;
  if (heads < m1::kHeadsPerKvHead || heads % m1::kHeadsPerKvHead != 0) {
    std::fprintf(stderr, "heads: %s, wanted a multiple of 8\n", argv[1]);
    return 2;
  }
  m1::Run(heads, argc > 2 ? argv[2] : "");
  return 0;
}
