// The binary layout of one exchange message, little-endian:
//
//   offset  size  field
//        0     4  magic "M1XF"
//        4     2  version, 1
//        6     1  kind: 1 dispatch, 2 combine, 3 error
//        7     1  dtype of the rows: 0 fp32, 1 bf16 (0 in an error)
//        8     8  id: chosen by the sender of the dispatch, repeated in the answer
//       16     4  layer
//       20     4  num_rows
//       24     4  hidden: elements of a row
//       28     4  num_pairs
//       32     4  code: a canonical status code (error only)
//       36     4  message_bytes (error only)
//       40     4  place of the rows: 0 in this frame, n + 1 in slot n of the workers' device link
//                 (device_link.h) and not in the frame (0 in an error)
//       44    20  zero
//
// then   dispatch: rows [num_rows, hidden], pairs [num_pairs] of (int32 row, int32 expert)
//        combine:  rows [num_pairs, hidden] in the order of the dispatch's pairs; num_rows is zero
//        error:    message [message_bytes]; num_rows, hidden and num_pairs are zero
//
// Frames come from outside: every field is bounded before it is used, and the sizes must give
// exactly the number of bytes received, so that nothing is allocated that was not sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/exchange/byte_chunks.h"
#include "common/exchange/device_link.h"
#include "common/exchange/exchange.h"
#include "common/tensor/dtype.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

inline constexpr int64_t kFrameHeaderBytes = 64;

enum class FrameKind : uint8_t { kDispatch = 1, kCombine = 2, kError = 3 };

inline constexpr int32_t kRowsInFrame = -1;

struct FrameHeader {
  FrameKind kind = FrameKind::kDispatch;
  DType dtype = DType::kF32;
  uint64_t id = 0;
  int32_t layer = 0;
  int32_t num_rows = 0;
  int32_t hidden = 0;
  int32_t num_pairs = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  int32_t message_bytes = 0;
  int32_t device_slot = kRowsInFrame;

  bool rows_in_frame() const { return device_slot == kRowsInFrame; }
  int64_t row_bytes() const { return int64_t{hidden} * DTypeBytes(dtype); }
  // Header and body.
  int64_t frame_bytes() const;
};

// The rows of a dispatch that one peer gets: rows[row_indices[i]] is row i of the frame, and pairs
// refer to i.
struct DispatchSlice {
  ConstTensorView rows;  // act [any, hidden]
  std::span<const int32_t> row_indices;
  std::span<const RowExpert> pairs;
};

// `out` has kFrameHeaderBytes.
void WriteFrameHeader(const FrameHeader& header, std::byte* out);
// Header of the frame that carries the slice.
FrameHeader DispatchHeader(uint64_t id, int32_t layer, const DispatchSlice& slice);
// `out` has header.frame_bytes(); writes header and body. Rows that are not in the frame are not
// read.
void WriteDispatch(const FrameHeader& header, const DispatchSlice& slice, std::byte* out);
// Header of the answer to `dispatch`.
FrameHeader CombineHeader(const FrameHeader& dispatch);
// A whole error frame. Messages are cut to 4096 bytes.
std::string EncodeErrorFrame(uint64_t id, const absl::Status& status);

// Reads and checks a header. Errors: InvalidArgument naming the field, what it was and what it may
// be; `header->id` is set even then if the bytes for it were there (0 otherwise), so that an answer
// can name it.
absl::Status ReadFrameHeader(ByteChunks* bytes, FrameHeader* header);
// After the header of a dispatch. `rows` is [num_rows, hidden] of the header's dtype, `pairs` has
// num_pairs elements. Errors: InvalidArgument for a row index outside [0, num_rows) or a negative
// expert.
absl::Status ReadDispatchBody(ByteChunks* bytes, TensorView rows, std::span<RowExpert> pairs);
// The same after the rows, for whoever uses these where they lie.
absl::Status ReadDispatchPairs(ByteChunks* bytes, int64_t num_rows, std::span<RowExpert> pairs);
// After the header of an error: the status it carries, never OK.
absl::Status ReadErrorBody(ByteChunks* bytes, const FrameHeader& header);

}  // namespace m1
