// What drawing and scoring a token costs at MiniMax-M1's vocabulary, next to one plain read of the
// row's logits in the same run.
//
//   sampler_bench [target]
//
// One thread, CPU time. Rows are taken in turn out of more than the caches hold, so the first pass
// over each, and the plain read, come from memory. A line is: case, microseconds a row, and how
// many plain reads that is.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"
#include "common/tensor/tensor.h"

namespace m1 {
namespace {

constexpr int64_t kVocab = 200064;
constexpr int64_t kRows = 96;  // 77 MB
constexpr int kRounds = 4;

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// What the logits look like.
struct Spread {
  const char* name;
  float deviation;  // of most
  int num_likely;   // tokens some way above
};

class Bench {
 public:
  explicit Bench(const std::string& target)
      : backend_(CreateCpuBackend({.num_threads = 1, .target = target}).value()) {}

  void Run(const Spread& spread) {
    Fill(spread);
    const double read = SecondsPerRow([&](int64_t row) { ReadRow(row); });
    std::printf("%s, %s logits\n  %-34s %8.1f us\n", backend_->name().c_str(), spread.name,
                "plain read", read * 1e6);
    const auto report = [&](const char* name, absl::FunctionRef<void(int64_t)> run) {
      const double seconds = SecondsPerRow(run);
      std::printf("  %-34s %8.1f us  %5.1f reads\n", name, seconds * 1e6, seconds / read);
      std::fflush(stdout);
    };
    report("log_sum_exp", [&](int64_t row) { LogSumExp(row); });
    report("draw greedy", [&](int64_t row) { Draw({.row = row, .temperature = 0.0f}); });
    report("draw top_p 1", [&](int64_t row) { Draw({.row = row}); });
    report("draw top_p 0.95", [&](int64_t row) { Draw({.row = row, .top_p = 0.95f}); });
    report("draw top_p 0.95, temperature 0.7",
           [&](int64_t row) { Draw({.row = row, .temperature = 0.7f, .top_p = 0.95f}); });
    report("draw top_k 50", [&](int64_t row) { Draw({.row = row, .top_k = 50}); });
    report("draw top_k 50, top_p 0.95, min_p",
           [&](int64_t row) { Draw({.row = row, .top_k = 50, .top_p = 0.95f, .min_p = 0.05f}); });
    const std::vector<LogitEdit> edits = Edits(2000);
    report("draw top_p 0.95, 2000 edits",
           [&](int64_t row) { Draw({.row = row, .edits = edits, .top_p = 0.95f}); });
    report("score", [&](int64_t row) { Score(row, 0); });
    report("score, 20 candidates", [&](int64_t row) { Score(row, 20); });
  }

 private:
  void Fill(const Spread& spread) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < kRows * kVocab; ++i) {
      logits_.data_as<float>()[i] = spread.deviation * normal(random_);
    }
    for (int64_t row = 0; row < kRows; ++row) {
      for (int i = 0; i < spread.num_likely; ++i) {
        const auto id = static_cast<int64_t>(random_() % kVocab);
        logits_.data_as<float>()[row * kVocab + id] = 16.0f + 2.0f * normal(random_);
      }
    }
  }

  std::vector<LogitEdit> Edits(int32_t count) const {
    std::vector<LogitEdit> edits;
    for (int32_t i = 0; i < count; ++i) {
      edits.push_back({.id = i * 97, .penalty = 1.1f, .offset = -0.5f});
    }
    return edits;
  }

  // Of the fastest round over all rows.
  static double SecondsPerRow(absl::FunctionRef<void(int64_t row)> run) {
    double best = 1e9;
    for (int round = 0; round < kRounds; ++round) {
      const double begin = CpuSeconds();
      for (int64_t row = 0; row < kRows; ++row) run(row);
      best = std::min(best, (CpuSeconds() - begin) / static_cast<double>(kRows));
    }
    return best;
  }

  void ReadRow(int64_t row) const {
    const auto* from = reinterpret_cast<const uint64_t*>(logits_.data_as<float>() + row * kVocab);
    uint64_t sums[4] = {};
    for (int64_t i = 0; i + 4 <= kVocab / 2; i += 4) {
      for (int j = 0; j < 4; ++j) sums[j] += from[i + j];
    }
    if (sums[0] + sums[1] + sums[2] + sums[3] == 0) std::abort();
  }

  void LogSumExp(int64_t row) {
    const float one = 1.0f;
    float lse = 0.0f;
    M1_CHECK(backend_->LogSumExp(logits_.view().Rows(row, 1), {&one, 1}, {&lse, 1}).ok());
  }

  void Draw(TokenDraw draw) {
    draw.uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
    int32_t id = 0;
    M1_CHECK(backend_->DrawTokens(logits_.view(), {&draw, 1}, {&id, 1}).ok());
  }

  void Score(int64_t row, int32_t candidate_count) {
    const ScoreRequest request{.row = row, .id = 5, .candidate_count = candidate_count};
    TokenScore score;
    M1_CHECK(backend_->ScoreTokens(logits_.view(), {&request, 1}, {&score, 1}).ok());
  }

  const std::unique_ptr<KernelBackend> backend_;
  Tensor logits_{DType::kF32, {kRows, kVocab}};
  std::mt19937_64 random_{1};
};

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  m1::Bench bench(argc > 1 ? argv[1] : "");
  bench.Run({.name = "peaked", .deviation = 2.5f, .num_likely = 8});
  bench.Run({.name = "flat", .deviation = 0.3f, .num_likely = 0});
  return 0;
}
