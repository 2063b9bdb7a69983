// ExchangeFrame messages (proto/m1/v1/exchange.proto) as raw bytes: tag of field 1, varint length,
// frame. Frames are written into and read from gRPC's own buffers, so that no copy goes through a
// protobuf object.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/exchange/byte_chunks.h"

namespace m1 {

// Metadata of an Exchange stream: v1::DeviceLinkKeys.
inline constexpr char kDeviceLinkMetadata[] = "m1-device-link-bin";

// A message under construction; move-only.
class OutgoingFrame {
 public:
  // frame_bytes > 0.
  explicit OutgoingFrame(int64_t frame_bytes);
  // Where the frame is to be written: frame_bytes, 64-byte aligned, uninitialised. Valid until
  // Finish.
  std::byte* frame() { return frame_; }
  // The message; shares the bytes. Once.
  grpc::ByteBuffer Finish();

 private:
  grpc::Slice message_;
  std::byte* frame_ = nullptr;
};

// A message that holds a copy of `frame`.
grpc::ByteBuffer MakeFrameMessage(absl::string_view frame);

// A received message; keeps the bytes alive.
struct IncomingFrame {
  std::vector<grpc::Slice> slices;
  ByteChunks bytes;  // the frame
};

// Errors: InvalidArgument when the message is no ExchangeFrame that holds one frame and nothing
// else.
absl::StatusOr<IncomingFrame> OpenFrameMessage(const grpc::ByteBuffer& message);

}  // namespace m1
