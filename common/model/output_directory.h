// A directory that a checkpoint is written to.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace m1 {

// Makes it when absent. Errors: AlreadyExists when it holds config.json or safetensors files;
// Internal with the system's message.
absl::Status PrepareOutputDirectory(const std::string& directory);

// Errors: ResourceExhausted when the disk of `directory` has less than `bytes` and some spare.
absl::Status CheckFreeDisk(const std::string& directory, int64_t bytes);

// Errors: Internal.
absl::Status WriteOutputText(const std::string& path, const std::string& text);

}  // namespace m1
