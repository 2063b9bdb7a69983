// The safetensors format: 8 bytes of header length (little-endian), a JSON header that gives every
// tensor's dtype, shape and [begin, end) of its bytes, then the bytes, without holes.
// Source: the format's specification, https://github.com/huggingface/safetensors (README,
// "Format").
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/model/input_file.h"
#include "common/tensor/dtype.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t offset_bytes = 0;  // from the beginning of the file; a multiple of the element's size
  int64_t size_bytes = 0;    // num_elements * DTypeBytes(dtype)
};

// "BF16", "F32", ... as headers spell them.
absl::string_view SafetensorsDTypeName(DType dtype);

// The entries, by offset. `header` is the JSON alone, `data_begin` its end in the file.
// Errors: DataLoss naming the tensor: not JSON, unknown dtype, a shape that overflows, a size that
// is not the shape's, bytes beyond the file, overlaps, holes, misaligned elements, a name that
// stands twice.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view header,
                                                                     int64_t data_begin,
                                                                     int64_t file_bytes);

// A file, mapped read-only. Thread-safe, but for CloseDescriptor. Whoever shortens the file while
// it is mapped makes its readers die with SIGBUS, as with every mapped file.
class SafetensorsFile {
 public:
  // Reads the header; no page of the mapping is touched. Errors: those of InputFile and of the
  // parser, with the path before them.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& directory,
                                                               const std::string& name);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const InputFile& file() const { return file_; }
  // The mapping needs no descriptor; a checkpoint of hundreds of files would use up the process's.
  void CloseDescriptor() { file_.Close(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  // [file().size_bytes()]
  const std::byte* mapping() const { return data_; }
  ConstTensorView view(const SafetensorsEntry& entry) const {
    return ConstTensorView(data_ + entry.offset_bytes, entry.dtype, entry.shape);
  }

 private:
  SafetensorsFile(InputFile file, std::vector<SafetensorsEntry> entries, const std::byte* data)
      : file_(std::move(file)), entries_(std::move(entries)), data_(data) {}

  InputFile file_;
  const std::vector<SafetensorsEntry> entries_;
  const std::byte* const data_;  // the mapping, [file_.size_bytes()]
};

}  // namespace m1
