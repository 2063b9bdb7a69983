#include "common/model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include <nlohmann/json.hpp>

#include "common/base/status_macros.h"
#include "common/model/safetensors.h"

namespace m1 {
namespace {

static_assert(std::endian::native == std::endian::little, "the length is written as it lies");

std::string PartialPath(const std::string& path) { return absl::StrCat(path, ".partial"); }

absl::Status SystemError(const std::string& path) {
  return absl::InternalError(absl::StrCat(path, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<SafetensorsTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const int64_t size = tensor.shape.num_elements() * DTypeBytes(tensor.dtype);
    if (offset % DTypeBytes(tensor.dtype) != 0 || header.contains(tensor.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, " is misaligned at ", offset, " or stands twice"));
    }
    nlohmann::json shape = nlohmann::json::array();
    for (int axis = 0; axis < tensor.shape.rank(); ++axis) shape.push_back(tensor.shape[axis]);
    header[tensor.name] = {{"dtype", std::string(SafetensorsDTypeName(tensor.dtype))},
                           {"shape", std::move(shape)},
                           {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();

  const int fd = open(PartialPath(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(path);
  auto writer = std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(fd, path, offset));
  M1_RETURN_IF_ERROR(writer->Write(std::as_bytes(std::span(&length, 1))));
  M1_RETURN_IF_ERROR(writer->Write(std::as_bytes(std::span(text))));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) close(fd_);
  if (!finished_) unlink(PartialPath(path_).c_str());
}

absl::Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (static_cast<int64_t>(bytes.size()) > missing_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", bytes.size(), " bytes more, the header leaves ", missing_bytes_));
  }
  M1_RETURN_IF_ERROR(Write(bytes));
  missing_bytes_ -= static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (missing_bytes_ != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": ", missing_bytes_, " bytes are missing"));
  }
  if (close(std::exchange(fd_, -1)) != 0) return SystemError(path_);
  if (rename(PartialPath(path_).c_str(), path_.c_str()) != 0) return SystemError(path_);
  finished_ = true;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd_, bytes.data(), bytes.size());
    if (count < 0 && errno != EINTR) return SystemError(path_);
    if (count > 0) bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace m1
