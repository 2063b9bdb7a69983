#include <iostream>
#include <string>

#include "absl/strings/cord.h"

#include "common/rpc/process.h"
#include "google/rpc/error_details.pb.h"
#include "tools/m1/commands.h"

namespace m1 {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

}  // namespace

int FailCommand(const std::string& command, const absl::Status& status) {
  std::cerr << "m1 " << command << ": " << status.message() << " ("
            << absl::StatusCodeToString(status.code()) << ")" << std::endl;
  google::rpc::BadRequest details;
  if (const auto payload = status.GetPayload(kBadRequestUrl);
      payload.has_value() && details.ParseFromString(std::string(*payload))) {
    for (const auto& violation : details.field_violations()) {
      std::cerr << "  " << violation.field() << ": " << violation.description() << "\n";
    }
  }
  return ExitCodeFor(status);
}

}  // namespace m1
