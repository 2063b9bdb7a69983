#include "common/model/tensor_table.h"

#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/input_file.h"
#include "common/model/strict_json.h"

namespace m1 {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;
constexpr JsonLimits kIndexLimits = {.max_depth = 8, .max_values = 2'000'000};

}  // namespace

absl::StatusOr<WeightMap> ParseWeightMap(absl::string_view index_json) {
  const absl::StatusOr<nlohmann::json> document = ParseStrictJson(index_json, kIndexLimits);
  if (!document.ok()) return absl::DataLossError(document.status().message());
  const auto it = document->find("weight_map");
  if (it == document->end()) return absl::DataLossError("weight_map is missing");
  if (!it->is_object()) {
    return absl::DataLossError(
        absl::StrCat("weight_map is ", JsonForMessage(*it), ", wanted an object"));
  }
  WeightMap weight_map;
  for (const auto& [tensor, file] : it->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A plain name only: an index must not lead to files elsewhere.
    if (!absl::EndsWith(name, ".safetensors") || name.find('/') != std::string::npos) {
      return absl::DataLossError(absl::StrCat("tensor ", QuoteForMessage(tensor), " is in file ",
                                              JsonForMessage(file),
                                              ", wanted NAME.safetensors without a path"));
    }
    weight_map.emplace(tensor, name);
  }
  return weight_map;
}

absl::StatusOr<TensorTable> TensorTable::Open(const std::string& directory) {
  TensorTable table;
  table.source_ = absl::StrCat(directory, "/", kSingleFile);
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> single =
      SafetensorsFile::Open(directory, kSingleFile);
  if (single.ok()) {
    M1_RETURN_IF_ERROR(table.AddFile(*std::move(single)));
    return table;
  }
  if (!absl::IsNotFound(single.status())) return single.status();
  const absl::StatusOr<std::string> index = ReadInputFile(directory, kIndexFile, kMaxIndexBytes);
  if (absl::IsNotFound(index.status())) {
    return absl::NotFoundError(
        absl::StrCat(directory, ": neither ", kSingleFile, " nor ", kIndexFile));
  }
  if (!index.ok()) return index.status();
  table.source_ = absl::StrCat(directory, "/", kIndexFile);
  const absl::StatusOr<WeightMap> weight_map = ParseWeightMap(*index);
  if (!weight_map.ok()) return AddContext(weight_map.status(), table.source_);
  M1_RETURN_IF_ERROR(table.OpenShards(directory, *weight_map));
  return table;
}

absl::Status TensorTable::OpenShards(const std::string& directory, const WeightMap& weight_map) {
  std::set<std::string> names;
  for (const auto& [tensor, name] : weight_map) names.insert(name);
  for (const std::string& name : names) {
    absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(directory, name);
    if (!file.ok()) return AddContext(file.status(), source_);
    M1_RETURN_IF_ERROR(AddFile(*std::move(file)));
  }
  for (const auto& [name, record] : records_) {
    if (weight_map.count(name) == 0) {
      return absl::DataLossError(absl::StrCat(record.file->file().path(), ": tensor ",
                                              QuoteForMessage(name), " is not in ", kIndexFile));
    }
  }
  for (const auto& [name, file_name] : weight_map) {
    const std::string path = absl::StrCat(directory, "/", file_name);
    const TensorRecord* record = Find(name);
    if (record == nullptr || record->file->file().path() != path) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", QuoteForMessage(name),
                                              " is missing, ", kIndexFile, " says it is there"));
    }
  }
  return absl::OkStatus();
}

absl::Status TensorTable::AddFile(std::unique_ptr<SafetensorsFile> file) {
  for (const SafetensorsEntry& entry : file->entries()) {
    const auto [it, inserted] = records_.try_emplace(entry.name, TensorRecord{file.get(), &entry});
    if (!inserted) {
      return absl::DataLossError(absl::StrCat(file->file().path(), ": tensor ",
                                              QuoteForMessage(entry.name), " is also in ",
                                              it->second.file->file().path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

const TensorRecord* TensorTable::Find(const std::string& name) const {
  const auto it = records_.find(name);
  return it == records_.end() ? nullptr : &it->second;
}

const SafetensorsFile* TensorTable::FileAt(const void* data) const {
  const auto* address = static_cast<const std::byte*>(data);
  for (const std::unique_ptr<SafetensorsFile>& file : files_) {
    const std::byte* begin = file->mapping();
    if (address >= begin && address < begin + file->file().size_bytes()) return file.get();
  }
  return nullptr;
}

void TensorTable::CloseDescriptors() {
  for (const std::unique_ptr<SafetensorsFile>& file : files_) file->CloseDescriptor();
}

}  // namespace m1
