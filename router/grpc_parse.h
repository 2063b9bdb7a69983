// Requests from raw bytes.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

// The path of the first string field in `wire`, the encoding of a message of this type, that is not
// UTF-8; absent when there is none or `wire` is malformed before it.
std::optional<std::string> FindBadUtf8(const google::protobuf::Descriptor& type,
                                       absl::string_view wire);

// Reads `bytes` into `request`. Errors: InvalidArgument, naming the field where one is to blame.
absl::Status ParseRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message* request);

// Errors: Internal when the message is too large to be one.
absl::StatusOr<grpc::ByteBuffer> SerializeResponse(const google::protobuf::Message& response);

}  // namespace m1
