// Tells whether two processes serve the same weights: compared when workers connect.
#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "common/model/config.h"
#include "common/model/tensor_table.h"

namespace m1 {

// 64 hex digits: SHA-256 over DescribeModelConfig, then for every tensor by name its name, dtype,
// shape and the 4 KiB around its middle (all of a shorter one). Independent of how the tensors are
// spread over files. Reads the files, not the mappings. Errors: DataLoss naming the file.
absl::StatusOr<std::string> ComputeFingerprint(const ModelConfig& config, const TensorTable& table);

}  // namespace m1
