// All tensors of a checkpoint directory by name: model.safetensors alone, or the files that
// model.safetensors.index.json lists.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/model/safetensors.h"

namespace m1 {

struct TensorRecord {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;

  ConstTensorView view() const { return file->view(*entry); }
};

// tensor name -> plain file name.
using WeightMap = std::map<std::string, std::string>;

// Errors: DataLoss (not JSON, no weight_map, a name that stands twice, a file name with a path).
absl::StatusOr<WeightMap> ParseWeightMap(absl::string_view index_json);

// Immutable after Open. Move-only: it owns the mapped files.
class TensorTable {
 public:
  // As transformers does, prefers model.safetensors when both are there.
  // Errors: NotFound; DataLoss naming file and tensor when an index and its files disagree.
  static absl::StatusOr<TensorTable> Open(const std::string& directory);

  // nullptr when absent.
  const TensorRecord* Find(const std::string& name) const;
  // The file that `data`, an address inside a tensor, is mapped from; nullptr: none.
  const SafetensorsFile* FileAt(const void* data) const;
  const std::map<std::string, TensorRecord>& records() const { return records_; }
  // The file that says which tensors there are: for messages about what is missing.
  const std::string& source() const { return source_; }
  // Closes the files' descriptors; the mappings stay.
  void CloseDescriptors();

 private:
  TensorTable() = default;
  absl::Status AddFile(std::unique_ptr<SafetensorsFile> file);
  absl::Status OpenShards(const std::string& directory, const WeightMap& weight_map);

  std::string source_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorRecord> records_;
};

}  // namespace m1
