#include "common/rpc/exchange_message.h"

#include <grpc/slice.h>

#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

constexpr uint8_t kFrameTag = 0x0a;  // field 1, length-delimited
constexpr int kMaxPrefixBytes = 11;  // tag and a varint of 64 bits
constexpr size_t kAlignment = 64;

struct Prefix {
  std::array<uint8_t, kMaxPrefixBytes> bytes = {};
  size_t size = 0;
};

Prefix MakePrefix(int64_t frame_bytes) {
  Prefix prefix;
  prefix.bytes[prefix.size++] = kFrameTag;
  auto rest = static_cast<uint64_t>(frame_bytes);
  while (rest >= 0x80U) {
    prefix.bytes[prefix.size++] = static_cast<uint8_t>(rest | 0x80U);
    rest >>= 7U;
  }
  prefix.bytes[prefix.size++] = static_cast<uint8_t>(rest);
  return prefix;
}

// False when the bytes end or the number has more than 64 bits.
bool ReadVarint(ByteChunks* bytes, uint64_t* value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    uint8_t byte = 0;
    if (!bytes->Read(&byte, 1)) return false;
    *value |= static_cast<uint64_t>(byte & 0x7fU) << shift;
    if ((byte & 0x80U) == 0) return true;
  }
  return false;
}

}  // namespace

OutgoingFrame::OutgoingFrame(int64_t frame_bytes) {
  const Prefix prefix = MakePrefix(frame_bytes);
  const size_t message_bytes = prefix.size + static_cast<size_t>(frame_bytes);
  // Copies between buffers of unlike alignment run many times slower, so the frame, not the
  // message, is aligned: a larger slice is made and its head cut off.
  grpc_slice whole = grpc_slice_malloc_large(message_bytes + 2 * kAlignment);
  uint8_t* start = GRPC_SLICE_START_PTR(whole);
  const auto first_frame = reinterpret_cast<uintptr_t>(start) + prefix.size;
  const size_t cut = (kAlignment - first_frame % kAlignment) % kAlignment;
  std::memcpy(start + cut, prefix.bytes.data(), prefix.size);
  frame_ = reinterpret_cast<std::byte*>(start + cut + prefix.size);
  message_ =
      grpc::Slice(grpc_slice_sub_no_ref(whole, cut, cut + message_bytes), grpc::Slice::STEAL_REF);
}

grpc::ByteBuffer OutgoingFrame::Finish() { return grpc::ByteBuffer(&message_, 1); }

grpc::ByteBuffer MakeFrameMessage(absl::string_view frame) {
  OutgoingFrame message(static_cast<int64_t>(frame.size()));
  std::memcpy(message.frame(), frame.data(), frame.size());
  return message.Finish();
}

absl::StatusOr<IncomingFrame> OpenFrameMessage(const grpc::ByteBuffer& message) {
  std::vector<grpc::Slice> slices;
  if (message.Valid() && !message.Dump(&slices).ok()) {
    return absl::InvalidArgumentError("exchange message cannot be decompressed");
  }
  std::vector<ByteChunks::Chunk> chunks;
  for (const grpc::Slice& slice : slices) {
    chunks.push_back(std::as_bytes(std::span(slice.begin(), slice.size())));
  }
  ByteChunks bytes(std::move(chunks));
  uint8_t tag = 0;
  uint64_t length = 0;
  if (!bytes.Read(&tag, 1) || tag != kFrameTag || !ReadVarint(&bytes, &length)) {
    return absl::InvalidArgumentError("exchange message does not begin with field 1, frame");
  }
  if (length != static_cast<uint64_t>(bytes.remaining())) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of ", length, " bytes in a message with ", bytes.remaining(), " left"));
  }
  return IncomingFrame{std::move(slices), std::move(bytes)};
}

}  // namespace m1
