#include "common/rpc/grpc_status.h"

#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

TEST(GrpcStatusTest, KeepsEveryCodeAndItsMessageBothWays) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "what, got, wanted");
    const grpc::Status converted = ToGrpcStatus(status);
    EXPECT_EQ(converted.error_code(), code);
    EXPECT_EQ(converted.error_message(), "what, got, wanted");
    EXPECT_EQ(FromGrpcStatus(converted), status);
  }
}

TEST(GrpcStatusTest, KeepsOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_OK(FromGrpcStatus(grpc::Status::OK));
}

TEST(GrpcStatusTest, CarriesPayloadsAsStandardDetails) {
  google::rpc::BadRequest bad_request;
  google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
  violation->set_field("sampling.top_p");
  violation->set_description("1.5 is outside (0, 1]");
  absl::Status status = absl::InvalidArgumentError("sampling.top_p: 1.5 is outside (0, 1]");
  status.SetPayload(kBadRequestUrl, absl::Cord(bad_request.SerializeAsString()));

  const grpc::Status converted = ToGrpcStatus(status);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(converted.error_details()));
  EXPECT_EQ(details.code(), 3);
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::BadRequest unpacked;
  ASSERT_TRUE(details.details(0).UnpackTo(&unpacked));
  EXPECT_EQ(unpacked.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(FromGrpcStatus(converted), status);
}

TEST(GrpcStatusTest, IgnoresDetailsThatDoNotParse) {
  const grpc::Status status(grpc::StatusCode::INTERNAL, "broken", "\xff\xff not a message");
  EXPECT_THAT(FromGrpcStatus(status), StatusIs(absl::StatusCode::kInternal, "broken"));
}

}  // namespace
}  // namespace m1
