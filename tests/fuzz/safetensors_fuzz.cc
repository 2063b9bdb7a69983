// Safetensors headers and index files of any bytes: no crash, and what is accepted keeps the
// promises that views rely on. The first byte chooses the parser, the next two the size of the
// data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"

#include "common/model/safetensors.h"
#include "common/model/tensor_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 3, size - 3);
  if (data[0] % 4 == 0) {
    const auto weight_map = m1::ParseWeightMap(text);
    if (!weight_map.ok()) return 0;
    for (const auto& [tensor, file] : *weight_map) {
      if (file.find('/') != std::string::npos) std::abort();
    }
    return 0;
  }
  const int64_t data_begin = 8 + static_cast<int64_t>(text.size());
  const int64_t file_bytes = data_begin + data[1] + 256 * data[2];
  const auto entries = m1::ParseSafetensorsHeader(text, data_begin, file_bytes);
  if (!entries.ok()) return 0;
  int64_t end = data_begin;
  for (const m1::SafetensorsEntry& entry : *entries) {
    if (entry.offset_bytes != end || entry.size_bytes < 0) std::abort();
    if (entry.offset_bytes % m1::DTypeBytes(entry.dtype) != 0) std::abort();
    if (entry.shape.num_elements() * m1::DTypeBytes(entry.dtype) != entry.size_bytes) std::abort();
    end += entry.size_bytes;
  }
  if (end != file_bytes) std::abort();
  return 0;
}
