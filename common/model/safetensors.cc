#include "common/model/safetensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/strict_json.h"

namespace m1 {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are used as the file holds them");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
// A tensor takes some twelve values; the largest checkpoint known has 24 000 tensors.
constexpr JsonLimits kHeaderLimits = {.max_depth = 4, .max_values = 2'000'000};

struct DTypeSpelling {
  DType dtype;
  const char* name;
};
constexpr DTypeSpelling kDTypes[] = {
    {DType::kF32, "F32"}, {DType::kBf16, "BF16"}, {DType::kF16, "F16"}, {DType::kI32, "I32"},
    {DType::kI8, "I8"},   {DType::kU8, "U8"},     {DType::kI64, "I64"}};

std::optional<int64_t> AsCount(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::Status ParseDType(const nlohmann::json& tensor, SafetensorsEntry* entry) {
  const auto it = tensor.find("dtype");
  if (it == tensor.end()) return absl::DataLossError("dtype is missing");
  for (const DTypeSpelling& spelling : kDTypes) {
    if (*it == spelling.name) {
      entry->dtype = spelling.dtype;
      return absl::OkStatus();
    }
  }
  return absl::DataLossError(absl::StrCat("dtype is ", JsonForMessage(*it),
                                          ", wanted F32, BF16, F16, I64, I32, I8 or U8"));
}

// Also the size in bytes that follows from dtype and shape.
absl::Status ParseShape(const nlohmann::json& tensor, SafetensorsEntry* entry) {
  const auto it = tensor.find("shape");
  if (it == tensor.end()) return absl::DataLossError("shape is missing");
  if (!it->is_array() || it->size() > static_cast<size_t>(Shape::kMaxRank)) {
    return absl::DataLossError(absl::StrCat("shape is ", JsonForMessage(*it),
                                            ", wanted an array of at most ", Shape::kMaxRank));
  }
  int64_t size = DTypeBytes(entry->dtype);
  for (const nlohmann::json& item : *it) {
    const std::optional<int64_t> dim = AsCount(item);
    if (!dim.has_value()) {
      return absl::DataLossError(
          absl::StrCat("shape has ", JsonForMessage(item), ", wanted a non-negative integer"));
    }
    if (__builtin_mul_overflow(size, *dim, &size)) {
      return absl::DataLossError("shape overflows 64 bits");
    }
    entry->shape.Append(*dim);
  }
  entry->size_bytes = size;
  return absl::OkStatus();
}

absl::Status ParseOffsets(const nlohmann::json& tensor, int64_t data_begin, int64_t file_bytes,
                          SafetensorsEntry* entry) {
  const auto it = tensor.find("data_offsets");
  if (it == tensor.end()) return absl::DataLossError("data_offsets is missing");
  if (!it->is_array() || it->size() != 2) {
    return absl::DataLossError(
        absl::StrCat("data_offsets is ", JsonForMessage(*it), ", wanted [begin, end]"));
  }
  const std::optional<int64_t> begin = AsCount((*it)[0]);
  const std::optional<int64_t> end = AsCount((*it)[1]);
  if (!begin.has_value() || !end.has_value() || *begin > *end) {
    return absl::DataLossError(absl::StrCat("data_offsets is [", JsonForMessage((*it)[0]), ", ",
                                            JsonForMessage((*it)[1]),
                                            "], wanted 0 <= begin <= end"));
  }
  if (*end > file_bytes - data_begin) {
    return absl::DataLossError(absl::StrCat("truncated: its bytes end at ", *end, ", the file has ",
                                            file_bytes - data_begin, " bytes after the header"));
  }
  if (*end - *begin != entry->size_bytes) {
    return absl::DataLossError(
        absl::StrCat("has ", *end - *begin, " bytes, shape ", entry->shape.ToString(), " of ",
                     SafetensorsDTypeName(entry->dtype), " takes ", entry->size_bytes));
  }
  entry->offset_bytes = data_begin + *begin;
  if (entry->offset_bytes % DTypeBytes(entry->dtype) != 0) {
    return absl::DataLossError(absl::StrCat(
        "misaligned: begins at byte ", entry->offset_bytes, " of the file, elements have ",
        DTypeBytes(entry->dtype), " bytes (save it again with the safetensors library)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const nlohmann::json& tensor,
                                            int64_t data_begin, int64_t file_bytes) {
  if (!tensor.is_object()) {
    return absl::DataLossError(absl::StrCat("is ", JsonForMessage(tensor), ", wanted an object"));
  }
  SafetensorsEntry entry;
  entry.name = name;
  M1_RETURN_IF_ERROR(ParseDType(tensor, &entry));
  M1_RETURN_IF_ERROR(ParseShape(tensor, &entry));
  M1_RETURN_IF_ERROR(ParseOffsets(tensor, data_begin, file_bytes, &entry));
  return entry;
}

// Sorted entries must follow one another from the header to the end of the file.
absl::Status CheckContiguous(const std::vector<SafetensorsEntry>& entries, int64_t data_begin,
                             int64_t file_bytes) {
  int64_t end = data_begin;
  const SafetensorsEntry* last = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset_bytes < end) {
      return absl::DataLossError(absl::StrCat("tensor ", QuoteForMessage(entry.name),
                                              " overlaps tensor ", QuoteForMessage(last->name)));
    }
    if (entry.offset_bytes > end) {
      return absl::DataLossError(absl::StrCat(entry.offset_bytes - end,
                                              " bytes that belong to no tensor before tensor ",
                                              QuoteForMessage(entry.name)));
    }
    end = entry.offset_bytes + entry.size_bytes;
    last = &entry;
  }
  if (end != file_bytes) {
    return absl::DataLossError(
        absl::StrCat(file_bytes - end, " bytes that belong to no tensor at the end of the file"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadHeader(const InputFile& file) {
  uint64_t length = 0;
  if (file.size_bytes() < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(file.path(), ": ", file.size_bytes(),
                                            " bytes, too short for a safetensors file"));
  }
  M1_RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": header of ", length, " bytes, limit ", kMaxHeaderBytes));
  }
  if (static_cast<int64_t>(length) > file.size_bytes() - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(file.path(), ": header of ", length,
                                            " bytes, the file has ", file.size_bytes()));
  }
  std::string header(length, '\0');
  M1_RETURN_IF_ERROR(file.ReadAt(kLengthBytes, std::as_writable_bytes(std::span(header))));
  return header;
}

}  // namespace

absl::string_view SafetensorsDTypeName(DType dtype) {
  for (const DTypeSpelling& spelling : kDTypes) {
    if (spelling.dtype == dtype) return spelling.name;
  }
  return "?";
}

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view header,
                                                                     int64_t data_begin,
                                                                     int64_t file_bytes) {
  absl::StatusOr<nlohmann::json> document = ParseStrictJson(header, kHeaderLimits);
  if (!document.ok()) {
    return absl::DataLossError(absl::StrCat("header: ", document.status().message()));
  }
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, tensor] : document->items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<SafetensorsEntry> entry = ParseEntry(name, tensor, data_begin, file_bytes);
    if (!entry.ok()) {
      return AddContext(entry.status(), absl::StrCat("tensor ", QuoteForMessage(name)));
    }
    entries.push_back(*std::move(entry));
  }
  // Empty tensors before the one that begins where they lie.
  std::sort(entries.begin(), entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              if (a.offset_bytes != b.offset_bytes) return a.offset_bytes < b.offset_bytes;
              return a.size_bytes < b.size_bytes;
            });
  M1_RETURN_IF_ERROR(CheckContiguous(entries, data_begin, file_bytes));
  return entries;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& directory,
                                                                       const std::string& name) {
  M1_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(directory, name));
  M1_ASSIGN_OR_RETURN(const std::string header, ReadHeader(file));
  absl::StatusOr<std::vector<SafetensorsEntry>> entries = ParseSafetensorsHeader(
      header, kLengthBytes + static_cast<int64_t>(header.size()), file.size_bytes());
  if (!entries.ok()) return AddContext(entries.status(), file.path());
  const auto size = static_cast<size_t>(file.size_bytes());
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (data == MAP_FAILED) {
    return absl::DataLossError(absl::StrCat(file.path(), ": mmap: ", std::strerror(errno)));
  }
  // No readahead: it would make pages of neighbours resident that another worker owns. Advice only.
  madvise(data, size, MADV_RANDOM);
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(file), *std::move(entries),
                                                              static_cast<const std::byte*>(data)));
}

SafetensorsFile::~SafetensorsFile() {
  munmap(const_cast<std::byte*>(data_), static_cast<size_t>(file_.size_bytes()));
}

}  // namespace m1
