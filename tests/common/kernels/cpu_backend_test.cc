#include "common/kernels/cpu_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <limits>

#include "absl/strings/str_join.h"

#include "common/kernels/cpu/targets.h"
#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

TEST(CpuBackendTest, SaysWhichTargetsRunHere) {
  const std::vector<std::string> supported = SupportedCpuTargets();
  std::vector<std::string> missing;
  for (const std::string& target : CompiledCpuTargets()) {
    if (std::find(supported.begin(), supported.end(), target) == supported.end()) {
      missing.push_back(target);
    }
  }
  std::cout << "targets run: " << absl::StrJoin(supported, ", ")
            << "; missing: " << (missing.empty() ? "none" : absl::StrJoin(missing, ", ")) << "\n";
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(supported.back(), "portable");
}

// Only a processor's own dot product may differ: the others are two fused multiply-adds.
TEST(CpuBackendTest, LeavesOutNoTargetThatTheMachineHas) {
  for (const CpuTarget& target : CpuTargets()) {
    if (target.name != std::string("avx512bf16") && target.machine_has()) {
      EXPECT_TRUE(CanRun(target)) << target.name;
    }
  }
}

TEST(CpuBackendTest, PicksTheBestTargetUnlessToldOne) {
  ASSERT_OK_AND_ASSIGN(const auto best, CreateCpuBackend({}));
  EXPECT_EQ(best->name(), SupportedCpuTargets().front());
  ASSERT_OK_AND_ASSIGN(const auto portable,
                       CreateCpuBackend({.num_threads = 2, .target = "portable"}));
  EXPECT_EQ(portable->name(), "portable");
}

TEST(CpuBackendTest, RefusesUnknownTargetsAndThreadCounts) {
  EXPECT_THAT(CreateCpuBackend({.num_threads = 1, .target = "mmx"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unknown target mmx")));
  for (const int threads : {-1, 0, 1025}) {
    EXPECT_THAT(CreateCpuBackend({.num_threads = threads, .target = ""}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wanted 1 to 1024")));
  }
}

TEST(CpuBackendTest, RefusesMoreThreadsThanCores) {
  EXPECT_THAT(CreateCpuBackend({.num_threads = 3, .target = "", .cores = {0, 1}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 threads on 2 cores")));
}

TEST(CpuBackendTest, LeavesTheCallersFloatingPointModeAlone) {
  ASSERT_OK_AND_ASSIGN(const auto backend, CreateCpuBackend({}));
  Tensor x(DType::kF32, {2, 2});
  Tensor out(DType::kF32, {2, 2});
  ASSERT_OK(backend->Linear(x.view(), x.view(), Epilogue::kNone, out.view()));
  volatile float smallest = std::numeric_limits<float>::min();
  EXPECT_GT(smallest * 0.5f, 0.0f);
}

TEST(CpuBackendTest, FlushesSubnormalProducts) {
  ASSERT_OK_AND_ASSIGN(const auto backend, CreateCpuBackend({}));
  Tensor x(DType::kF32, {1, 1});
  x.data_as<float>()[0] = 1e-20f;
  Tensor out(DType::kF32, {1, 1});
  ASSERT_OK(backend->Linear(x.view(), x.view(), Epilogue::kNone, out.view()));
  EXPECT_EQ(out.data_as<float>()[0], 0.0f);
}

}  // namespace
}  // namespace m1
