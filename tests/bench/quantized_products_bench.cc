// Products with int8 and int4 matrices next to the same products with bf16 ones, measured in turns:
// ratios of times, and bytes of weights a second. Matrices are larger than the caches together.
//
//   quantized_products_bench [threads [target]]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"
#include "common/tensor/tensor.h"
#include "tools/bench/median.h"

namespace m1 {
namespace {

constexpr int kRounds = 7;
constexpr int64_t kHidden = 1024;
constexpr int64_t kIntermediate = 1536;
constexpr int64_t kNumExperts = 128;  // 600 MB of bf16

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// [experts * n, k], touched.
struct Matrices {
  Matrices(int64_t n, int64_t k, int64_t group) {
    const int64_t rows = kNumExperts * n;
    if (group < 0) {
      values = Tensor(DType::kBf16, {rows, k});
      std::fill_n(values.data_as<Bf16>(), rows * k, FloatToBf16(1.0F / 64));
    } else if (group == 0) {
      values = Tensor(DType::kI8, {rows, k});
      std::fill_n(values.data_as<int8_t>(), rows * k, int8_t{3});
      scales = Tensor(DType::kF32, {rows});
      std::fill_n(scales.data_as<float>(), rows, 1.0F / 64);
    } else {
      values = Tensor(DType::kU8, {rows, k / 2});
      std::fill_n(values.data_as<uint8_t>(), rows * k / 2, uint8_t{0x9a});
      scales = Tensor(DType::kBf16, {rows, k / group});
      std::fill_n(scales.data_as<Bf16>(), rows * k / group, FloatToBf16(1.0F / 64));
    }
  }
  MatrixView view() const {
    const Tensor& s = scales;
    const Tensor& v = values;
    return s.shape().rank() == 0 ? MatrixView(v.view()) : MatrixView(v.view(), s.view());
  }

  Tensor values;
  Tensor scales;
};

struct Experts {
  explicit Experts(int64_t group)
      : w1(kIntermediate, kHidden, group),
        w2(kHidden, kIntermediate, group),
        w3(kIntermediate, kHidden, group) {}

  int64_t bytes_each() const {
    return (w1.view().num_bytes() + w2.view().num_bytes() + w3.view().num_bytes()) / kNumExperts;
  }
  ExpertGroup group(int64_t expert, int64_t row_begin, int64_t num_rows) const {
    return {row_begin, num_rows, w1.view().Rows(expert * kIntermediate, kIntermediate),
            w2.view().Rows(expert * kHidden, kHidden),
            w3.view().Rows(expert * kIntermediate, kIntermediate)};
  }

  Matrices w1, w2, w3;
};

// Seconds of a pass over all experts, `at_once` in a call, each with `rows` rows.
double Pass(KernelBackend& backend, const Experts& experts, int64_t at_once, int64_t rows) {
  Tensor x(DType::kBf16, {at_once * rows, kHidden});
  std::fill_n(x.data_as<Bf16>(), at_once * rows * kHidden, FloatToBf16(1.0F / 64));
  Tensor mid(DType::kBf16, {at_once * rows, kIntermediate});
  Tensor out(DType::kBf16, {at_once * rows, kHidden});
  const double begin = Now();
  for (int64_t first = 0; first < kNumExperts; first += at_once) {
    std::vector<ExpertGroup> groups;
    for (int64_t i = 0; i < at_once; ++i) {
      groups.push_back(experts.group(first + i, i * rows, rows));
    }
    M1_CHECK(backend.ExpertFfn(x.view(), groups, mid.view(), out.view()).ok());
  }
  return Now() - begin;
}

void Run(int num_threads, const std::string& target) {
  const auto backend = CreateCpuBackend({.num_threads = num_threads, .target = target}).value();
  std::printf("target %s, %d threads, experts 1024 x 1536, two in a call\n",
              backend->name().c_str(), num_threads);
  const std::vector<std::string> names = {"bf16", "int8", "int4-g32", "int4-g64"};
  std::vector<Experts> experts;
  for (const int64_t group : {-1, 0, 32, 64}) experts.emplace_back(group);
  for (const int64_t rows : {1, 4, 16, 64}) {
    std::vector<std::vector<double>> seconds(experts.size());
    for (int round = 0; round < kRounds; ++round) {
      for (size_t f = 0; f < experts.size(); ++f) {
        seconds[f].push_back(Pass(*backend, experts[f], 2, rows));
      }
    }
    const double bf16 = Median(seconds[0]);
    for (size_t f = 0; f < experts.size(); ++f) {
      const double own = Median(seconds[f]);
      const double bytes = static_cast<double>(experts[f].bytes_each() * kNumExperts);
      const double flops = 6.0 * static_cast<double>(rows * kHidden * kIntermediate * kNumExperts);
      std::printf("%3ld rows  %-9s %6.2f x the speed of bf16  %6.1f GB/s  %7.1f GFLOP/s\n", rows,
                  names[f].c_str(), bf16 / own, bytes / own * 1e-9, flops / own * 1e-9);
    }
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  m1::Run(argc > 1 ? std::atoi(argv[1]) : 2, argc > 2 ? argv[2] : "");
  return 0;
}
