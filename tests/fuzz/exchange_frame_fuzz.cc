// Exchange frames of any bytes: reading never touches memory outside, allocates no more than was
// sent, and what is accepted is written back to the same bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "common/exchange/frame.h"
#include "common/tensor/tensor.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckDispatch(m1::ByteChunks* bytes, const m1::FrameHeader& header,
                   std::span<const std::byte> frame) {
  // Rows that are elsewhere are not allocated: nobody has sent them.
  const int32_t rows_here = header.rows_in_frame() ? header.num_rows : 0;
  m1::Tensor rows(header.dtype, {rows_here, header.hidden});
  std::vector<m1::RowExpert> pairs(static_cast<size_t>(header.num_pairs));
  if (header.rows_in_frame()) {
    if (!m1::ReadDispatchBody(bytes, rows.view(), pairs).ok()) return;
  } else if (!m1::ReadDispatchPairs(bytes, header.num_rows, pairs).ok()) {
    return;
  }
  std::vector<int32_t> row_indices(static_cast<size_t>(rows_here));
  std::iota(row_indices.begin(), row_indices.end(), 0);
  std::vector<std::byte> again(frame.size());
  const m1::DispatchSlice slice = {rows.view(), row_indices, pairs};
  m1::FrameHeader written = m1::DispatchHeader(header.id, header.layer, slice);
  written.num_rows = header.num_rows;
  written.device_slot = header.device_slot;
  m1::WriteDispatch(written, slice, again.data());
  Require(std::memcmp(again.data(), frame.data(), frame.size()) == 0);
}

void CheckError(m1::ByteChunks* bytes, const m1::FrameHeader& header,
                std::span<const std::byte> frame) {
  const absl::Status status = m1::ReadErrorBody(bytes, header);
  Require(!status.ok());
  const std::string again = m1::EncodeErrorFrame(header.id, status);
  // Layer and dtype mean nothing in an error and are not kept.
  Require(again.size() == frame.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte says where the frame is cut into two pieces.
  const std::span<const std::byte> frame = std::as_bytes(std::span(data + 1, size - 1));
  const size_t cut = frame.size() * data[0] / 255;
  m1::ByteChunks bytes({frame.first(cut), frame.subspan(cut)});
  m1::FrameHeader header;
  if (!m1::ReadFrameHeader(&bytes, &header).ok()) return 0;
  Require(header.frame_bytes() == static_cast<int64_t>(frame.size()));
  if (header.kind == m1::FrameKind::kDispatch) CheckDispatch(&bytes, header, frame);
  if (header.kind == m1::FrameKind::kError) CheckError(&bytes, header, frame);
  return 0;
}
