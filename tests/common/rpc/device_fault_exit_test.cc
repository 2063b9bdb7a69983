#include "common/rpc/device_fault_exit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "common/rpc/process.h"
#include "common/rpc/server_runner.h"

namespace m1 {
namespace {

using ::testing::AllOf;
using ::testing::ExitedWithCode;
using ::testing::HasSubstr;

const absl::Status kFault = absl::InternalError("linear: cudaErrorIllegalAddress");
constexpr char kLine[] = "ERROR device_fault_exit.cc";
constexpr char kWhat[] = "event=device_fault exit_code=4 error=\"linear: cudaErrorIllegalAddress\"";

class DeviceFaultExitTest : public testing::Test {
 protected:
  DeviceFaultExitTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(DeviceFaultExitTest, NamesTheFaultAndEndsBeforeAnythingServes) {
  DeviceFaultExit fault_exit;
  EXPECT_EXIT(fault_exit.End(kFault), ExitedWithCode(4), AllOf(HasSubstr(kLine), HasSubstr(kWhat)));
}

TEST_F(DeviceFaultExitTest, IsNotServingWhenItEnds) {
  const auto serve_and_end = [] {
    ServerOptions options;
    options.on_serving = [](bool serving) { std::cerr << "serving=" << serving << "\n"; };
    const auto runner = ServerRunner::Start(options, {}).value();
    DeviceFaultExit fault_exit;
    fault_exit.SetServer(runner.get());
    runner->SetServing(true);
    fault_exit.End(kFault);
  };
  EXPECT_EXIT(serve_and_end(), ExitedWithCode(kDeviceFaultExitCode),
              AllOf(HasSubstr("serving=1\n"), HasSubstr(kWhat), testing::EndsWith("serving=0\n")));
}

}  // namespace
}  // namespace m1
