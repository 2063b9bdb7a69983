#include "router/grpc_parse.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/text/utf8_stream.h"
#include "router/grpc_violations.h"

namespace m1 {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 16;  // our messages nest far less
constexpr uint32_t kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;

bool SkipScalar(uint32_t wire_type, CodedInputStream* input) {
  uint64_t varint = 0;
  switch (wire_type) {
    case kVarint:
      return input->ReadVarint64(&varint);
    case kFixed64:
      return input->Skip(8);
    case kFixed32:
      return input->Skip(4);
    default:
      return false;
  }
}

std::string Flatten(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string flat;
  if (!bytes.Dump(&slices).ok()) return flat;
  flat.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) {
    flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return flat;
}

std::optional<std::string> Find(const Descriptor& type, absl::string_view wire, int depth) {
  if (depth > kMaxDepth) return std::nullopt;
  CodedInputStream input(reinterpret_cast<const uint8_t*>(wire.data()),
                         static_cast<int>(wire.size()));
  std::vector<int> counts(static_cast<size_t>(type.field_count()), 0);
  while (const uint32_t tag = input.ReadTag()) {
    if ((tag & 7) != kLengthDelimited) {
      if (!SkipScalar(tag & 7, &input)) return std::nullopt;
      continue;
    }
    uint32_t length = 0;
    if (!input.ReadVarint32(&length)) return std::nullopt;
    const auto begin = static_cast<size_t>(input.CurrentPosition());
    if (length > wire.size() - begin) return std::nullopt;
    const absl::string_view value = wire.substr(begin, length);
    if (!input.Skip(static_cast<int>(length))) return std::nullopt;
    const FieldDescriptor* field = type.FindFieldByNumber(static_cast<int>(tag >> 3));
    if (field == nullptr) continue;
    const int index = counts[static_cast<size_t>(field->index())]++;
    const std::string path = field->is_repeated() ? absl::StrCat(field->name(), "[", index, "]")
                                                  : std::string(field->name());
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      if (!IsValidUtf8(value)) return path;
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (auto inner = Find(*field->message_type(), value, depth + 1)) return path + "." + *inner;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> FindBadUtf8(const Descriptor& type, absl::string_view wire) {
  return Find(type, wire, 0);
}

absl::Status ParseRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message* request) {
  const std::string wire = Flatten(bytes);
  if (request->ParseFromString(wire)) return absl::OkStatus();
  Violations violations;
  if (const auto field = FindBadUtf8(*request->GetDescriptor(), wire)) {
    violations.Add(*field, "is not UTF-8");
  } else {
    violations.Add("", absl::StrCat("the message is no ", request->GetDescriptor()->full_name()));
  }
  return violations.ToStatus();
}

absl::StatusOr<grpc::ByteBuffer> SerializeResponse(const google::protobuf::Message& response) {
  std::string wire;
  if (!response.SerializeToString(&wire)) {
    return absl::InternalError(absl::StrCat("a ", response.GetDescriptor()->full_name(), " of ",
                                            response.ByteSizeLong(), " bytes cannot be sent"));
  }
  grpc::Slice slice(wire);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace m1
