#include "common/model/checkpoint_writer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include <nlohmann/json.hpp>

#include "common/base/status_macros.h"
#include "common/model/config.h"
#include "common/model/input_file.h"
#include "common/model/output_directory.h"
#include "common/model/safetensors_writer.h"

namespace m1 {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kPieceElements = 64 * 1024;

// Finaliser of splitmix64: a bijection that spreads every bit (Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

uint64_t TensorKey(uint64_t seed, absl::string_view name) {
  uint64_t key = Mix(seed + 0x9e3779b97f4a7c15U);
  for (const char c : name) key = Mix(key ^ static_cast<unsigned char>(c)) + 0x9e3779b97f4a7c15U;
  return key;
}

// Deviation 1, mean 0: four 16-bit uniforms added. Exact integers and one multiply, so the same
// bits everywhere; bounded by 3.5, which no weight misses.
float Bell(uint64_t key, int64_t index) {
  const uint64_t bits = Mix(key + static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15U);
  const auto sum = static_cast<int32_t>((bits & 0xffffU) + ((bits >> 16) & 0xffffU) +
                                        ((bits >> 32) & 0xffffU) + (bits >> 48));
  constexpr int32_t kTwiceMean = 4 * 65535;
  // The sum's deviation is sqrt(4 (65536^2 - 1) / 12); twice that, because the centred sum is
  // doubled.
  constexpr float kScale = 1.0F / (2.0F * 37837.227F);
  return static_cast<float>(2 * sum - kTwiceMean) * kScale;
}

struct Distribution {
  float mean = 0.0F;
  float deviation = 1.0F;
};

Distribution DistributionOf(const TensorSpec& spec, bool tied_embeddings) {
  const auto fan_in = static_cast<float>(spec.shape[spec.shape.rank() - 1]);
  switch (spec.slot) {
    case TensorSlot::kFinalNorm:
    case TensorSlot::kInputNorm:
    case TensorSlot::kPostAttentionNorm:
    case TensorSlot::kInnerNorm:
      return {1.0F, 0.1F};
    case TensorSlot::kEmbedding:
      return {0.0F, tied_embeddings ? 3.0F / std::sqrt(fan_in) : 1.0F};
    case TensorSlot::kLmHead:
      return {0.0F, 3.0F / std::sqrt(fan_in)};
    default:
      return {0.0F, 1.0F / std::sqrt(fan_in)};
  }
}

struct PlannedTensor {
  SafetensorsTensor tensor;
  Distribution distribution;
  int64_t size_bytes = 0;
};

absl::StatusOr<std::vector<PlannedTensor>> PlanTensors(const ModelConfig& config,
                                                       const RandomCheckpointOptions& options) {
  if (options.dtype != DType::kBf16 && options.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype is ", DTypeName(options.dtype), ", wanted bf16 or fp32"));
  }
  if (options.layout == ExpertLayout::kFused && config.format != CheckpointFormat::kTransformers) {
    return absl::InvalidArgumentError("fused experts need model_type minimax");
  }
  std::vector<PlannedTensor> plan;
  M1_RETURN_IF_ERROR(ForEachTensor(config, options.layout, [&](const TensorSpec& spec) {
    const DType dtype = spec.slot == TensorSlot::kGate ? DType::kF32 : options.dtype;
    plan.push_back({.tensor = {.name = spec.name, .dtype = dtype, .shape = spec.shape},
                    .distribution = DistributionOf(spec, config.tie_word_embeddings),
                    .size_bytes = spec.shape.num_elements() * DTypeBytes(dtype)});
    return absl::OkStatus();
  }));
  return plan;
}

using Shard = std::vector<PlannedTensor>;

// Consecutive tensors fill a shard up to the limit; within it wider elements come first.
std::vector<Shard> PlanShards(std::vector<PlannedTensor> plan,
                              std::optional<int64_t> max_shard_bytes) {
  std::vector<Shard> shards(1);
  int64_t shard_bytes = 0;
  for (PlannedTensor& tensor : plan) {
    if (max_shard_bytes.has_value() && !shards.back().empty() &&
        shard_bytes + tensor.size_bytes > *max_shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += tensor.size_bytes;
    shards.back().push_back(std::move(tensor));
  }
  for (Shard& shard : shards) {
    std::stable_sort(shard.begin(), shard.end(),
                     [](const PlannedTensor& a, const PlannedTensor& b) {
                       return DTypeBytes(a.tensor.dtype) > DTypeBytes(b.tensor.dtype);
                     });
  }
  return shards;
}

class RandomCheckpointWriter {
 public:
  RandomCheckpointWriter(const RandomCheckpointOptions& options, int64_t total_bytes)
      : options_(options), total_bytes_(total_bytes) {}

  absl::Status WriteShard(const std::string& name, const Shard& shard) {
    std::vector<SafetensorsTensor> tensors;
    for (const PlannedTensor& planned : shard) tensors.push_back(planned.tensor);
    M1_ASSIGN_OR_RETURN(
        const std::unique_ptr<SafetensorsWriter> writer,
        SafetensorsWriter::Create(absl::StrCat(options_.out_dir, "/", name), tensors));
    for (const PlannedTensor& planned : shard) {
      M1_RETURN_IF_ERROR(WriteTensor(planned, writer.get()));
    }
    return writer->Finish();
  }

 private:
  absl::Status WriteTensor(const PlannedTensor& planned, SafetensorsWriter* writer) {
    const uint64_t key = TensorKey(options_.seed, planned.tensor.name);
    const int64_t num_elements = planned.tensor.shape.num_elements();
    for (int64_t begin = 0; begin < num_elements; begin += kPieceElements) {
      const auto count = static_cast<size_t>(std::min(kPieceElements, num_elements - begin));
      floats_.resize(count);
      for (size_t i = 0; i < count; ++i) {
        const float spread =
            planned.distribution.deviation * Bell(key, begin + static_cast<int64_t>(i));
        floats_[i] = planned.distribution.mean + spread;
      }
      std::span<const std::byte> bytes = std::as_bytes(std::span(floats_));
      if (planned.tensor.dtype == DType::kBf16) {
        halves_.resize(count);
        for (size_t i = 0; i < count; ++i) halves_[i] = FloatToBf16(floats_[i]);
        bytes = std::as_bytes(std::span(halves_));
      }
      M1_RETURN_IF_ERROR(writer->Append(bytes));
      done_bytes_ += static_cast<int64_t>(bytes.size());
      if (options_.progress && !options_.progress(done_bytes_, total_bytes_)) {
        return absl::CancelledError("writing was stopped");
      }
    }
    return absl::OkStatus();
  }

  const RandomCheckpointOptions& options_;
  const int64_t total_bytes_;
  int64_t done_bytes_ = 0;
  std::vector<float> floats_;
  std::vector<Bf16> halves_;
};

std::string ShardName(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", index + 1, count);
}

std::string IndexPath(const std::string& directory) {
  return absl::StrCat(directory, "/model.safetensors.index.json");
}

// config.json comes last: until then the directory does not open.
absl::Status WriteFiles(const RandomCheckpointOptions& options, const std::vector<Shard>& shards,
                        const std::string& config_text) {
  int64_t total_bytes = 0;
  for (const Shard& shard : shards) {
    for (const PlannedTensor& planned : shard) total_bytes += planned.size_bytes;
  }
  RandomCheckpointWriter writer(options, total_bytes);
  nlohmann::json weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = ShardName(i, shards.size());
    M1_RETURN_IF_ERROR(writer.WriteShard(name, shards[i]));
    for (const PlannedTensor& planned : shards[i]) weight_map[planned.tensor.name] = name;
  }
  if (shards.size() > 1) {
    const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}},
                                  {"weight_map", std::move(weight_map)}};
    M1_RETURN_IF_ERROR(WriteOutputText(IndexPath(options.out_dir), index.dump(2) + "\n"));
  }
  return WriteOutputText(absl::StrCat(options.out_dir, "/config.json"), config_text);
}

// After an error, so that a second try finds the directory as the first did.
void RemoveFiles(const std::string& directory, size_t num_shards) {
  std::error_code ignored;
  for (size_t i = 0; i < num_shards; ++i) {
    fs::remove(absl::StrCat(directory, "/", ShardName(i, num_shards)), ignored);
  }
  fs::remove(IndexPath(directory), ignored);
  fs::remove(absl::StrCat(directory, "/config.json"), ignored);
}

}  // namespace

absl::Status WriteRandomCheckpoint(const RandomCheckpointOptions& options) {
  const fs::path config_path(options.config_path);
  const std::string config_dir =
      config_path.has_parent_path() ? config_path.parent_path().string() : ".";
  M1_ASSIGN_OR_RETURN(const std::string config_text,
                      ReadInputFile(config_dir, config_path.filename().string(), kMaxConfigBytes));
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(config_text);
  if (!config.ok()) return AddContext(config.status(), options.config_path);
  M1_ASSIGN_OR_RETURN(std::vector<PlannedTensor> plan, PlanTensors(*config, options));
  M1_RETURN_IF_ERROR(PrepareOutputDirectory(options.out_dir));

  const std::vector<Shard> shards = PlanShards(std::move(plan), options.max_shard_bytes);
  absl::Status status = WriteFiles(options, shards, config_text);
  if (!status.ok()) RemoveFiles(options.out_dir, shards.size());
  return status;
}

}  // namespace m1
