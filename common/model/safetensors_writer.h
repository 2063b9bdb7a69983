// Writes one safetensors file as a stream: header first, then the tensors' bytes in its order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/tensor/dtype.h"
#include "common/tensor/shape.h"

namespace m1 {

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

// The file appears under its name when Finish succeeds; until then it is PATH.partial, which the
// destructor removes. Thread-compatible.
class SafetensorsWriter {
 public:
  // Errors: InvalidArgument (a name twice, an order that leaves a tensor misaligned); Internal with
  // the system's message (directory, permissions, disk).
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<SafetensorsTensor>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes, in any pieces. Errors: InvalidArgument when they are more than the header says.
  absl::Status Append(std::span<const std::byte> bytes);
  // Errors: FailedPrecondition when bytes are missing.
  absl::Status Finish();

 private:
  SafetensorsWriter(int fd, std::string path, int64_t data_bytes)
      : fd_(fd), path_(std::move(path)), missing_bytes_(data_bytes) {}
  absl::Status Write(std::span<const std::byte> bytes);

  int fd_;
  const std::string path_;
  int64_t missing_bytes_;
  bool finished_ = false;
};

}  // namespace m1
