#include "common/model/output_directory.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

namespace fs = std::filesystem;

// For what is not tensors: headers, tokenizer, config.
constexpr int64_t kSpareBytes = int64_t{64} << 20;

}  // namespace

absl::Status PrepareOutputDirectory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return absl::InternalError(absl::StrCat(directory, ": ", error.message()));
  fs::directory_iterator entries(directory, error);
  if (error) return absl::InternalError(absl::StrCat(directory, ": ", error.message()));
  for (const fs::directory_entry& entry : entries) {
    if (entry.path().extension() == ".safetensors" || entry.path().filename() == "config.json") {
      return absl::AlreadyExistsError(absl::StrCat(directory, ": holds a checkpoint already (",
                                                   entry.path().filename().string(), ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFreeDisk(const std::string& directory, int64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (error) return absl::InternalError(absl::StrCat(directory, ": ", error.message()));
  if (space.available >= static_cast<uintmax_t>(bytes + kSpareBytes)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      directory, ": ", space.available >> 20, " MiB free, wanted ", (bytes + kSpareBytes) >> 20));
}

absl::Status WriteOutputText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) return absl::InternalError(absl::StrCat(path, ": cannot be written"));
  return absl::OkStatus();
}

}  // namespace m1
