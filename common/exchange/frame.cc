#include "common/exchange/frame.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

static_assert(std::endian::native == std::endian::little,
              "frames are written as they lie in memory");
static_assert(sizeof(RowExpert) == 8);

constexpr uint32_t kMagic = 0x4658314dU;  // "M1XF"
constexpr uint16_t kVersion = 1;
// Bounds that keep every product below inside int64.
constexpr int32_t kMaxRows = 1 << 20;
constexpr int32_t kMaxPairs = 1 << 24;
constexpr int32_t kMaxHidden = 1 << 20;
constexpr int32_t kMaxLayers = 1 << 16;
constexpr int32_t kMaxMessageBytes = 4096;

// The header as it lies in the frame.
struct RawHeader {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  uint8_t kind = 0;
  uint8_t dtype = 0;
  uint64_t id = 0;
  int32_t layer = 0;
  int32_t num_rows = 0;
  int32_t hidden = 0;
  int32_t num_pairs = 0;
  int32_t code = 0;
  int32_t message_bytes = 0;
  int32_t rows_place = 0;
  std::array<uint8_t, 20> zero = {};
};
static_assert(sizeof(RawHeader) == kFrameHeaderBytes);

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("frame ", field, " ", value, ", want ", low, " to ", high));
}

absl::Status CheckKinds(const RawHeader& raw) {
  if (raw.magic != kMagic) return absl::InvalidArgumentError("frame magic is not \"M1XF\"");
  M1_RETURN_IF_ERROR(CheckRange("version", raw.version, kVersion, kVersion));
  M1_RETURN_IF_ERROR(CheckRange("kind", raw.kind, 1, 3));
  M1_RETURN_IF_ERROR(CheckRange("dtype", raw.dtype, 0, 1));
  if (std::any_of(raw.zero.begin(), raw.zero.end(), [](uint8_t byte) { return byte != 0; })) {
    return absl::InvalidArgumentError("frame bytes 44 to 63 are not zero");
  }
  return absl::OkStatus();
}

absl::Status CheckFields(const RawHeader& raw) {
  const bool error = raw.kind == static_cast<uint8_t>(FrameKind::kError);
  const bool dispatch = raw.kind == static_cast<uint8_t>(FrameKind::kDispatch);
  M1_RETURN_IF_ERROR(CheckRange("layer", raw.layer, 0, kMaxLayers));
  M1_RETURN_IF_ERROR(CheckRange("num_rows", raw.num_rows, 0, dispatch ? kMaxRows : 0));
  M1_RETURN_IF_ERROR(CheckRange("hidden", raw.hidden, error ? 0 : 1, error ? 0 : kMaxHidden));
  M1_RETURN_IF_ERROR(CheckRange("num_pairs", raw.num_pairs, 0, error ? 0 : kMaxPairs));
  M1_RETURN_IF_ERROR(CheckRange("code", raw.code, error ? 1 : 0, error ? 16 : 0));
  M1_RETURN_IF_ERROR(
      CheckRange("place of rows", raw.rows_place, 0, error ? 0 : DeviceSlots::kMaxSlots));
  return CheckRange("message_bytes", raw.message_bytes, 0, error ? kMaxMessageBytes : 0);
}

// At most kMaxMessageBytes, without the beginning of a UTF-8 character that would not fit.
absl::string_view CutMessage(absl::string_view message) {
  constexpr size_t kMaxContinuationBytes = 3;
  size_t end = kMaxMessageBytes;
  if (message.size() <= end) return message;
  const auto continues = [message](size_t index) {
    return (static_cast<unsigned char>(message[index]) & 0xC0) == 0x80;
  };
  while (continues(end) && end > kMaxMessageBytes - kMaxContinuationBytes) --end;
  return message.substr(0, end);
}

}  // namespace

int64_t FrameHeader::frame_bytes() const {
  switch (kind) {
    case FrameKind::kDispatch:
      return kFrameHeaderBytes + (rows_in_frame() ? num_rows * row_bytes() : 0) +
             num_pairs * static_cast<int64_t>(sizeof(RowExpert));
    case FrameKind::kCombine:
      return kFrameHeaderBytes + (rows_in_frame() ? num_pairs * row_bytes() : 0);
    case FrameKind::kError:
      return kFrameHeaderBytes + message_bytes;
  }
  return kFrameHeaderBytes;
}

void WriteFrameHeader(const FrameHeader& header, std::byte* out) {
  RawHeader raw;
  raw.kind = static_cast<uint8_t>(header.kind);
  raw.dtype = static_cast<uint8_t>(header.dtype);
  raw.id = header.id;
  raw.layer = header.layer;
  raw.num_rows = header.num_rows;
  raw.hidden = header.hidden;
  raw.num_pairs = header.num_pairs;
  raw.code = static_cast<int32_t>(header.code);
  raw.message_bytes = header.message_bytes;
  raw.rows_place = header.device_slot + 1;
  std::memcpy(out, &raw, sizeof(raw));
}

FrameHeader DispatchHeader(uint64_t id, int32_t layer, const DispatchSlice& slice) {
  FrameHeader header;
  header.kind = FrameKind::kDispatch;
  header.dtype = slice.rows.dtype();
  header.id = id;
  header.layer = layer;
  header.num_rows = static_cast<int32_t>(slice.row_indices.size());
  header.hidden = static_cast<int32_t>(slice.rows.dim(1));
  header.num_pairs = static_cast<int32_t>(slice.pairs.size());
  return header;
}

void WriteDispatch(const FrameHeader& header, const DispatchSlice& slice, std::byte* out) {
  WriteFrameHeader(header, out);
  out += kFrameHeaderBytes;
  const size_t row_bytes = static_cast<size_t>(header.row_bytes());
  const auto* rows = static_cast<const std::byte*>(slice.rows.data());
  if (header.rows_in_frame()) {
    for (const int32_t index : slice.row_indices) {
      std::memcpy(out, rows + static_cast<size_t>(index) * row_bytes, row_bytes);
      out += row_bytes;
    }
  }
  if (!slice.pairs.empty()) std::memcpy(out, slice.pairs.data(), slice.pairs.size_bytes());
}

FrameHeader CombineHeader(const FrameHeader& dispatch) {
  FrameHeader header = dispatch;
  header.kind = FrameKind::kCombine;
  header.num_rows = 0;
  return header;
}

std::string EncodeErrorFrame(uint64_t id, const absl::Status& status) {
  M1_CHECK(!status.ok());
  const absl::string_view message = CutMessage(status.message());
  FrameHeader header;
  header.kind = FrameKind::kError;
  header.id = id;
  header.code = status.code();
  header.message_bytes = static_cast<int32_t>(message.size());
  std::string frame(static_cast<size_t>(kFrameHeaderBytes), '\0');
  WriteFrameHeader(header, reinterpret_cast<std::byte*>(frame.data()));
  frame.append(message.data(), message.size());
  return frame;
}

absl::Status ReadFrameHeader(ByteChunks* bytes, FrameHeader* header) {
  *header = FrameHeader();
  const int64_t received = bytes->remaining();
  RawHeader raw;
  if (!bytes->Read(&raw, sizeof(raw))) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of ", received, " bytes, want at least ", kFrameHeaderBytes));
  }
  header->id = raw.id;
  M1_RETURN_IF_ERROR(CheckKinds(raw));
  M1_RETURN_IF_ERROR(CheckFields(raw));
  header->kind = static_cast<FrameKind>(raw.kind);
  header->dtype = static_cast<DType>(raw.dtype);
  header->layer = raw.layer;
  header->num_rows = raw.num_rows;
  header->hidden = raw.hidden;
  header->num_pairs = raw.num_pairs;
  header->code = static_cast<absl::StatusCode>(raw.code);
  header->message_bytes = raw.message_bytes;
  header->device_slot = raw.rows_place - 1;
  if (header->frame_bytes() != received) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of ", received, " bytes, its header says ", header->frame_bytes()));
  }
  return absl::OkStatus();
}

absl::Status ReadDispatchBody(ByteChunks* bytes, TensorView rows, std::span<RowExpert> pairs) {
  if (!bytes->Read(rows.data(), rows.num_bytes())) {
    return absl::InvalidArgumentError("dispatch frame is shorter than its header says");
  }
  return ReadDispatchPairs(bytes, rows.dim(0), pairs);
}

absl::Status ReadDispatchPairs(ByteChunks* bytes, int64_t num_rows, std::span<RowExpert> pairs) {
  if (!bytes->Read(pairs.data(), static_cast<int64_t>(pairs.size_bytes()))) {
    return absl::InvalidArgumentError("dispatch frame is shorter than its header says");
  }
  for (const RowExpert& pair : pairs) {
    if (pair.row >= 0 && pair.row < num_rows && pair.expert >= 0 && pair.expert <= kMaxPairs) {
      continue;
    }
    M1_RETURN_IF_ERROR(CheckRange("pair's row", pair.row, 0, num_rows - 1));
    M1_RETURN_IF_ERROR(CheckRange("pair's expert", pair.expert, 0, kMaxPairs));
  }
  return absl::OkStatus();
}

absl::Status ReadErrorBody(ByteChunks* bytes, const FrameHeader& header) {
  std::string message(static_cast<size_t>(header.message_bytes), '\0');
  if (!bytes->Read(message.data(), header.message_bytes)) {
    return absl::InvalidArgumentError("error frame is shorter than its header says");
  }
  return absl::Status(header.code, message);
}

}  // namespace m1
