// What integer weights do to a model's distributions: its prompts once with the weights as they are
// and once for each format of `m1 quantize`, and how far the next-token distributions are apart.
//
//   quantization_bench [golden checkpoint]        (mini-bf16), with the prompts of its cases
//   quantization_bench DIRECTORY                  a checkpoint of its own, with random prompts
//
// A line is: format, bytes of the weights as a part of before, mean and 99th percentile of the KL
// divergence (nats), part of the positions with the same most likely token.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/model/checkpoint_quantizer.h"
#include "tests/support/golden.h"
#include "tests/support/local_model.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

constexpr int64_t kStepRows = 256;
constexpr int64_t kNumRandomPrompts = 8;
constexpr int64_t kRandomPromptTokens = 128;

using Distribution = std::vector<double>;  // log-probabilities, [vocab]

struct Subject {
  std::string directory;
  std::vector<std::vector<int32_t>> prompts;  // token ids
};

Subject GoldenSubject(const std::string& name) {
  const GoldenCheckpoint golden = LoadGolden(name);
  Subject subject{golden.directory, {}};
  for (const GoldenCase& golden_case : golden.cases) {
    subject.prompts.push_back(golden_case.prompt_ids);
  }
  return subject;
}

Subject RandomSubject(const std::string& directory) {
  const int64_t vocab = Checkpoint::Open(directory).value()->config().vocab_size;
  std::mt19937_64 random(1);
  Subject subject{directory, std::vector<std::vector<int32_t>>(kNumRandomPrompts)};
  for (std::vector<int32_t>& prompt : subject.prompts) {
    for (int64_t i = 0; i < kRandomPromptTokens; ++i) {
      prompt.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
    }
  }
  return subject;
}

std::vector<int32_t> AllExperts(const ModelConfig& config) {
  std::vector<int32_t> experts(static_cast<size_t>(config.num_experts));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}

void AddRows(TensorView logits, std::vector<Distribution>* to) {
  const int64_t vocab = logits.dim(1);
  for (int64_t row = 0; row < logits.dim(0); ++row) {
    const float* x = logits.data_as<float>() + row * vocab;
    const double largest = *std::max_element(x, x + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(double{x[i]} - largest);
    Distribution& distribution = to->emplace_back();
    for (int64_t i = 0; i < vocab; ++i) {
      distribution.push_back(double{x[i]} - largest - std::log(sum));
    }
  }
}

// The distribution after every token of every prompt.
std::vector<Distribution> Distributions(const std::string& directory,
                                        const std::vector<std::vector<int32_t>>& prompts,
                                        const ModelConfig& config) {
  LocalModelOptions options;
  options.activation_dtype = config.weights_dtype;
  options.target = "";
  options.shards = {AllExperts(config)};
  LocalModel model(directory, options);
  ForwardPass& forward = model.forward();
  std::vector<Distribution> all;
  for (const std::vector<int32_t>& prompt : prompts) {
    const auto total = static_cast<int64_t>(prompt.size());
    std::vector<int32_t> blocks(static_cast<size_t>(total / kKvBlockTokens + 1));
    std::iota(blocks.begin(), blocks.end(), 0);
    M1_CHECK(forward.ResetSlot(0).ok());
    for (int64_t first = 0; first < total; first += kStepRows) {
      StepBatch batch;
      const int64_t rows = std::min(kStepRows, total - first);
      for (int64_t i = 0; i < rows; ++i) {
        batch.token_ids.push_back(prompt[static_cast<size_t>(first + i)]);
        batch.positions.push_back(first + i);
        batch.logit_rows.push_back(static_cast<int32_t>(i));
        batch.logit_temperatures.push_back(1.0F);
      }
      batch.sequences.push_back({{0, rows, first}, 0, blocks});
      const absl::Status status =
          forward.Run(batch, [&](int64_t, TensorView logits, std::span<const float>) {
            AddRows(logits, &all);
            return absl::OkStatus();
          });
      M1_CHECK_MSG(status.ok(), status.ToString());
    }
  }
  return all;
}

double Divergence(const Distribution& p, const Distribution& q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

size_t MostLikely(const Distribution& p) {
  return static_cast<size_t>(std::max_element(p.begin(), p.end()) - p.begin());
}

void Print(const std::string& name, double size, const std::vector<Distribution>& p,
           const std::vector<Distribution>& q) {
  std::vector<double> divergences;
  size_t num_same = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    divergences.push_back(Divergence(p[i], q[i]));
    if (MostLikely(p[i]) == MostLikely(q[i])) ++num_same;
  }
  const double count = static_cast<double>(p.size());
  const double mean = std::accumulate(divergences.begin(), divergences.end(), 0.0) / count;
  std::sort(divergences.begin(), divergences.end());
  std::printf("%-18s %5.2f  %9.6f  %9.6f  %6.2f %%\n", name.c_str(), size, mean,
              divergences[divergences.size() * 99 / 100],
              100 * static_cast<double>(num_same) / count);
  std::fflush(stdout);
}

int64_t WeightBytes(const Checkpoint& checkpoint) {
  return checkpoint.attention_weight_bytes() +
         checkpoint.expert_weight_bytes(AllExperts(checkpoint.config()));
}

// Quantizes, compares, and takes away what it made: a checkpoint may be many gigabytes.
void Compare(const Subject& subject, const Checkpoint& plain,
             const std::vector<Distribution>& wanted, const WeightQuantization& quantization) {
  const TempDirectory scratch;
  const std::string out = scratch.Join("quantized");
  const absl::Status status = QuantizeCheckpoint(
      {.model_dir = subject.directory, .out_dir = out, .quantization = quantization});
  if (!status.ok()) {
    std::printf("%s\n", std::string(status.message()).c_str());
    return;
  }
  const auto checkpoint = Checkpoint::Open(out).value();
  Print(checkpoint->weight_format(),
        static_cast<double>(WeightBytes(*checkpoint)) / static_cast<double>(WeightBytes(plain)),
        wanted, Distributions(out, subject.prompts, plain.config()));
}

void Run(const std::string& argument) {
  const Subject subject =
      std::filesystem::is_directory(argument) ? RandomSubject(argument) : GoldenSubject(argument);
  const auto plain = Checkpoint::Open(subject.directory).value();
  const std::vector<Distribution> wanted =
      Distributions(subject.directory, subject.prompts, plain->config());
  std::printf("%s: %zu positions\n%-18s %5s  %9s  %9s  %8s\n", argument.c_str(), wanted.size(),
              "format", "size", "mean KL", "p99 KL", "top 1");
  const std::pair<MatrixFormat, int32_t> formats[] = {
      {MatrixFormat::kInt8, 0}, {MatrixFormat::kInt4, 32}, {MatrixFormat::kInt4, 64}};
  for (const auto& [format, group_size] : formats) {
    for (const bool everything : {false, true}) {
      Compare(subject, *plain, wanted, {format, everything, group_size});
    }
  }
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  m1::Run(argc > 1 ? argv[1] : "mini-bf16");
  return 0;
}
