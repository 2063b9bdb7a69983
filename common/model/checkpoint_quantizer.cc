#include "common/model/checkpoint_quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include <nlohmann/json.hpp>

#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/input_file.h"
#include "common/model/output_directory.h"
#include "common/model/quantize.h"
#include "common/model/safetensors_writer.h"
#include "common/model/strict_json.h"
#include "common/model/tensor_table.h"
#include "common/model/weight_names.h"

namespace m1 {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kMaxTextBytes = int64_t{16} << 20;
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr const char* kIndexName = "model.safetensors.index.json";

// One tensor of the output and where it comes from.
struct PlannedTensor {
  enum class Part : uint8_t { kCopy, kIntegers, kScales };
  SafetensorsTensor tensor;
  const TensorRecord* source = nullptr;
  Part part = Part::kCopy;

  int64_t size_bytes() const { return tensor.shape.num_elements() * DTypeBytes(tensor.dtype); }
};

// By the name of the output file, which is the input's; within one wider elements come first.
using Plan = std::map<std::string, std::vector<PlannedTensor>>;

absl::Status CheckIsPlain(const ModelConfig& config, const std::string& directory) {
  if (config.quantization.format == MatrixFormat::kPlain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(directory, ": is ", WeightFormatName(config), " already, wanted bf16 or fp32"));
}

absl::StatusOr<Plan> MakePlan(const ModelConfig& config, const TensorTable& table,
                              const WeightQuantization& quantization) {
  const bool fused =
      config.format == CheckpointFormat::kTransformers && table.Find(FusedGateUpName(0)) != nullptr;
  std::map<std::string, Shape> quantized;
  M1_RETURN_IF_ERROR(ForEachTensor(config, fused ? ExpertLayout::kFused : ExpertLayout::kSeparate,
                                   [&](const TensorSpec& spec) {
                                     if (IsQuantizedSlot(spec.slot, quantization)) {
                                       quantized.emplace(spec.name, spec.shape);
                                     }
                                     return absl::OkStatus();
                                   }));
  Plan plan;
  for (const auto& [name, record] : table.records()) {
    std::vector<PlannedTensor>& file = plan[fs::path(record.file->file().path()).filename()];
    const auto it = quantized.find(name);
    if (it == quantized.end()) {
      file.push_back({{name, record.entry->dtype, record.entry->shape}, &record});
      continue;
    }
    const absl::StatusOr<QuantizedTensors> as = QuantizedAs(quantization, it->second);
    if (!as.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " ", as.status().message()));
    }
    file.push_back(
        {{name, as->integers_dtype, as->integers}, &record, PlannedTensor::Part::kIntegers});
    file.push_back(
        {{ScaleName(name), as->scales_dtype, as->scales}, &record, PlannedTensor::Part::kScales});
  }
  for (auto& [name, file] : plan) {
    std::stable_sort(file.begin(), file.end(), [](const PlannedTensor& a, const PlannedTensor& b) {
      return DTypeBytes(a.tensor.dtype) > DTypeBytes(b.tensor.dtype);
    });
  }
  return plan;
}

int64_t TotalBytes(const Plan& plan) {
  int64_t total = 0;
  for (const auto& [name, file] : plan) {
    for (const PlannedTensor& tensor : file) total += tensor.size_bytes();
  }
  return total;
}

class QuantizedFileWriter {
 public:
  QuantizedFileWriter(const QuantizeOptions& options, int64_t total_bytes)
      : options_(options), total_bytes_(total_bytes) {}

  absl::Status WriteFile(const std::string& name, const std::vector<PlannedTensor>& file) {
    std::vector<SafetensorsTensor> tensors;
    for (const PlannedTensor& planned : file) tensors.push_back(planned.tensor);
    M1_ASSIGN_OR_RETURN(
        const std::unique_ptr<SafetensorsWriter> writer,
        SafetensorsWriter::Create(absl::StrCat(options_.out_dir, "/", name), tensors));
    for (const PlannedTensor& planned : file) {
      absl::Status status = planned.part == PlannedTensor::Part::kCopy
                                ? CopyTensor(planned, writer.get())
                                : WriteQuantized(planned, writer.get());
      if (!status.ok())
        return AddContext(status, absl::StrCat("tensor ", planned.source->entry->name));
    }
    return writer->Finish();
  }

 private:
  absl::Status Append(std::span<const std::byte> bytes, SafetensorsWriter* writer) {
    M1_RETURN_IF_ERROR(writer->Append(bytes));
    done_bytes_ += static_cast<int64_t>(bytes.size());
    if (options_.progress && !options_.progress(done_bytes_, total_bytes_)) {
      return absl::CancelledError("writing was stopped");
    }
    return absl::OkStatus();
  }

  absl::Status CopyTensor(const PlannedTensor& planned, SafetensorsWriter* writer) {
    const SafetensorsEntry& entry = *planned.source->entry;
    for (int64_t at = 0; at < entry.size_bytes; at += kPieceBytes) {
      raw_.resize(static_cast<size_t>(std::min(kPieceBytes, entry.size_bytes - at)));
      M1_RETURN_IF_ERROR(planned.source->file->file().ReadAt(entry.offset_bytes + at, raw_));
      M1_RETURN_IF_ERROR(Append(raw_, writer));
    }
    return absl::OkStatus();
  }

  // Integers or scales, some rows at a time. Scales stand elsewhere in the file than their
  // integers: the source is read twice rather than kept.
  absl::Status WriteQuantized(const PlannedTensor& planned, SafetensorsWriter* writer) {
    const Shape& shape = planned.source->entry->shape;
    const int64_t k = shape[shape.rank() - 1];
    const int64_t num_rows = k == 0 ? 0 : shape.num_elements() / k;
    const int64_t rows_at_once = std::max<int64_t>(1, kPieceBytes / (k * 4 + 1));
    for (int64_t row = 0; row < num_rows; row += rows_at_once) {
      const int64_t count = std::min(rows_at_once, num_rows - row);
      M1_RETURN_IF_ERROR(ReadRows(*planned.source, row * k, count * k));
      QuantizeRows(count, k);
      const auto wanted =
          planned.part == PlannedTensor::Part::kScales ? std::span(scales_) : std::span(integers_);
      M1_RETURN_IF_ERROR(Append(wanted, writer));
    }
    return absl::OkStatus();
  }

  absl::Status ReadRows(const TensorRecord& record, int64_t begin, int64_t count) {
    const bool bf16 = record.entry->dtype == DType::kBf16;
    const int64_t element = DTypeBytes(record.entry->dtype);
    raw_.resize(static_cast<size_t>(count * element));
    M1_RETURN_IF_ERROR(
        record.file->file().ReadAt(record.entry->offset_bytes + begin * element, raw_));
    floats_.resize(static_cast<size_t>(count));
    const ConstTensorView view(raw_.data(), record.entry->dtype, {count});
    for (int64_t i = 0; i < count; ++i) {
      const float value = bf16 ? Bf16ToFloat(view.data_as<Bf16>()[i]) : view.data_as<float>()[i];
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat("has ", value, " at ", begin + i, ", wanted finite numbers"));
      }
      floats_[static_cast<size_t>(i)] = value;
    }
    return absl::OkStatus();
  }

  // floats_ to integers_ and scales_.
  void QuantizeRows(int64_t num_rows, int64_t k) {
    const int64_t group = options_.quantization.group_size;
    const bool int8 = options_.quantization.format == MatrixFormat::kInt8;
    const int64_t row_integers = int8 ? k : k / 2;
    const int64_t row_scales = int8 ? 4 : k / group * 2;
    integers_.resize(static_cast<size_t>(num_rows * row_integers));
    scales_.resize(static_cast<size_t>(num_rows * row_scales));
    for (int64_t r = 0; r < num_rows; ++r) {
      const auto row = std::span<const float>(floats_).subspan(static_cast<size_t>(r * k),
                                                               static_cast<size_t>(k));
      std::byte* const integers = integers_.data() + r * row_integers;
      std::byte* const scales = scales_.data() + r * row_scales;
      if (int8) {
        *reinterpret_cast<float*>(scales) = QuantizeInt8(row, reinterpret_cast<int8_t*>(integers));
      } else {
        QuantizeInt4(row, group, reinterpret_cast<uint8_t*>(integers),
                     reinterpret_cast<Bf16*>(scales));
      }
    }
  }

  const QuantizeOptions& options_;
  const int64_t total_bytes_;
  int64_t done_bytes_ = 0;
  std::vector<std::byte> raw_;
  std::vector<float> floats_;
  std::vector<std::byte> integers_;
  std::vector<std::byte> scales_;
};

// Everything beside the weights and config.json.
absl::Status CopyOtherFiles(const QuantizeOptions& options, std::vector<std::string>* written) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(options.model_dir, error)) {
    const std::string name = entry.path().filename();
    if (!entry.is_regular_file() || entry.path().extension() == ".safetensors" ||
        name == "config.json" || name == kIndexName) {
      continue;
    }
    const fs::path to = fs::path(options.out_dir) / name;
    if (fs::exists(to)) continue;  // the operator's own
    written->push_back(to);
    fs::copy_file(entry.path(), to, error);
    if (error) return absl::InternalError(absl::StrCat(to.string(), ": ", error.message()));
  }
  if (error) return absl::InternalError(absl::StrCat(options.model_dir, ": ", error.message()));
  return absl::OkStatus();
}

absl::Status WriteIndex(const std::string& path, const Plan& plan) {
  ordered_json weight_map;
  for (const auto& [name, file] : plan) {
    for (const PlannedTensor& planned : file) weight_map[planned.tensor.name] = name;
  }
  const ordered_json index = {{"metadata", {{"total_size", TotalBytes(plan)}}},
                              {"weight_map", std::move(weight_map)}};
  return WriteOutputText(path, index.dump(2) + "\n");
}

// The model's config.json, as it stands there, with a quantization_config at its end.
absl::StatusOr<std::string> QuantizedConfigText(const QuantizeOptions& options) {
  M1_ASSIGN_OR_RETURN(const std::string text,
                      ReadInputFile(options.model_dir, "config.json", kMaxTextBytes));
  const WeightQuantization& quantization = options.quantization;
  ordered_json section = {{"quant_method", "m1"},
                          {"format", quantization.format == MatrixFormat::kInt8 ? "int8" : "int4"},
                          {"scope", quantization.everything ? "all" : "experts"}};
  if (quantization.format == MatrixFormat::kInt4) section["group_size"] = quantization.group_size;
  // Opening the model has parsed it, with limits.
  ordered_json config = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InternalError("config.json is no object");
  config["quantization_config"] = std::move(section);
  return config.dump(2) + "\n";
}

// In `written`: what to remove after an error.
absl::Status WriteFiles(const QuantizeOptions& options, const Plan& plan,
                        const std::string& config_text, std::vector<std::string>* written) {
  QuantizedFileWriter writer(options, TotalBytes(plan));
  for (const auto& [name, file] : plan) {
    M1_RETURN_IF_ERROR(writer.WriteFile(name, file));
    written->push_back(absl::StrCat(options.out_dir, "/", name));
  }
  if (plan.size() > 1) {
    written->push_back(absl::StrCat(options.out_dir, "/", kIndexName));
    M1_RETURN_IF_ERROR(WriteIndex(written->back(), plan));
  }
  M1_RETURN_IF_ERROR(CopyOtherFiles(options, written));
  written->push_back(absl::StrCat(options.out_dir, "/config.json"));
  return WriteOutputText(written->back(), config_text);
}

}  // namespace

absl::Status QuantizeCheckpoint(const QuantizeOptions& options) {
  // Checks all that is there; its config has what only the tensors say.
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                      Checkpoint::Open(options.model_dir));
  M1_RETURN_IF_ERROR(CheckIsPlain(checkpoint->config(), options.model_dir));
  M1_ASSIGN_OR_RETURN(const TensorTable table, TensorTable::Open(options.model_dir));
  M1_ASSIGN_OR_RETURN(const Plan plan, MakePlan(checkpoint->config(), table, options.quantization));
  M1_ASSIGN_OR_RETURN(const std::string config_text, QuantizedConfigText(options));
  M1_RETURN_IF_ERROR(PrepareOutputDirectory(options.out_dir));
  M1_RETURN_IF_ERROR(CheckFreeDisk(options.out_dir, TotalBytes(plan)));

  std::vector<std::string> written;
  absl::Status status = WriteFiles(options, plan, config_text, &written);
  std::error_code ignored;
  for (const std::string& path : written) {
    if (!status.ok()) fs::remove(path, ignored);
  }
  return status;
}

}  // namespace m1
