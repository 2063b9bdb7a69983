#include "common/worker/worker_model.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "common/base/affinity.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = "tests/golden/mini-bf16";

WorkerModelOptions Valid() {
  WorkerModelOptions options;
  options.directory = kModel;
  options.threads = 1;
  return options;
}

TEST(WorkerModelTest, ErrorsNameTheFlag) {
  const auto check = [](const char* message, auto change) {
    WorkerModelOptions options = Valid();
    change(options);
    EXPECT_THAT(Validate(options),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  EXPECT_OK(Validate(Valid()));
  check("--model is empty", [](auto& options) { options.directory = ""; });
  check("--threads is -1, wanted 0 to 1024", [](auto& options) { options.threads = -1; });
  check("--threads is 1025", [](auto& options) { options.threads = 1025; });
  check("--weights is \"ram\", wanted auto, copy or mmap",
        [](auto& options) { options.weights = "ram"; });
  check("--device is \"tpu\", wanted cpu or cuda", [](auto& options) { options.device = "tpu"; });
  check("--cpu_target is \"avx2\", which --device cuda has no use for", [](auto& options) {
    options.device = "cuda";
    options.cpu_target = "avx2";
  });
  check("--activation_dtype is \"fp16\"", [](auto& options) { options.activation_dtype = "fp16"; });
}

TEST(WorkerModelTest, AutoTakesTheTypeOfTheWeights) {
  WorkerModelOptions options = Valid();
  ASSERT_OK_AND_ASSIGN(const WorkerModel by_default, OpenWorkerModel(options));
  EXPECT_EQ(by_default.activation_dtype, DType::kBf16);
  EXPECT_EQ(by_default.identity.activation_dtype, "bf16");
  options.activation_dtype = "fp32";
  ASSERT_OK_AND_ASSIGN(const WorkerModel asked, OpenWorkerModel(options));
  EXPECT_EQ(asked.activation_dtype, DType::kF32);
  EXPECT_EQ(asked.identity.activation_dtype, "fp32");
  EXPECT_EQ(asked.identity.weight_format, "bf16");
  EXPECT_EQ(asked.identity.fingerprint, by_default.identity.fingerprint);
  EXPECT_EQ(asked.identity.numerics_revision, kNumericsRevision);
}

TEST(WorkerModelTest, WhatIsWrongWithFilesIsNotTheFlagsFault) {
  WorkerModelOptions options = Valid();
  options.directory = "tests/no_such_directory";
  EXPECT_EQ(OpenWorkerModel(options).status().code(), absl::StatusCode::kNotFound);
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) /
                                       ("worker_model_test_bad_config_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << "{\"model_type\": \"gpt\"}";
  options.directory = folder.string();
  EXPECT_EQ(OpenWorkerModel(options).status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove_all(folder);
}

TEST(WorkerModelTest, UnknownInstructionSetIsTheFlagsFault) {
  WorkerModelOptions options = Valid();
  options.cpu_target = "abacus";
  EXPECT_THAT(OpenWorkerModel(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--cpu_target \"abacus\"")));
}

TEST(WorkerModelTest, ADeviceThatCannotBeUsedIsTheFlagsFault) {
  WorkerModelOptions options = Valid();
  options.device = "cuda";
  const absl::StatusOr<WorkerModel> model = OpenWorkerModel(options);
  if (model.ok()) GTEST_SKIP() << "there is a GPU";
  EXPECT_THAT(model, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--device is cuda: ")));
}

TEST(WorkerModelTest, WhatADeviceCannotHoldIsListed) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  const MemoryNeed needs[] = {{"weights", 12 * kMiB}, {"KV blocks (--kv_bytes)", 3 * kMiB}};
  EXPECT_OK(CheckDeviceMemory(16 * kMiB, needs));
  EXPECT_THAT(CheckDeviceMemory(16 * kMiB - 2, needs),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has 14 MiB of memory to give, wanted 15 MiB: weights 12 MiB, "
                                 "KV blocks (--kv_bytes) 3 MiB")));
}

TEST(WorkerModelTest, WeightsAreCopiedWhereThatIsAskedForOrFits) {
  constexpr int64_t kMoreThanAnyMachineHas = int64_t{1} << 60;
  const auto try_to_choose = [](const std::string& weights, int64_t bytes) {
    WorkerModelOptions options = Valid();
    options.weights = weights;
    return ChooseWeightMemory(options, bytes);
  };
  const auto choose = [&](const std::string& weights, int64_t bytes) {
    return try_to_choose(weights, bytes).value();
  };
  EXPECT_EQ(choose("copy", 1), WeightMemory::kCopied);
  EXPECT_EQ(choose("mmap", 1), WeightMemory::kMapped);
  EXPECT_EQ(choose("mmap", kMoreThanAnyMachineHas), WeightMemory::kMapped);
  EXPECT_EQ(choose("auto", kMoreThanAnyMachineHas), WeightMemory::kMapped);
  EXPECT_EQ(choose("auto", 1), WeightMemory::kCopied);
  EXPECT_THAT(try_to_choose("copy", kMoreThanAnyMachineHas),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("--weights is copy, which takes 1152921504606846976 bytes")));
}

TEST(WorkerModelTest, MoreThreadsThanCoresCannotBePinned) {
  ASSERT_OK_AND_ASSIGN(const std::vector<int> cores, AllowedCores());
  WorkerModelOptions options = Valid();
  options.pin = true;
  options.threads = static_cast<int32_t>(cores.size()) + 1;
  EXPECT_THAT(CreateBackend(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--pin with --threads")));
  options.threads = static_cast<int32_t>(cores.size());
  EXPECT_OK(CreateBackend(options));
  options.threads = 0;
  EXPECT_OK(CreateBackend(options));
}

TEST(WorkerModelTest, LoadingStopsWhenAsked) {
  ASSERT_OK_AND_ASSIGN(const WorkerModel model, OpenWorkerModel(Valid()));
  EXPECT_OK(model.checkpoint->PrefetchAttention(LogLoading([] { return false; })));
  EXPECT_EQ(model.checkpoint->PrefetchAttention(LogLoading([] { return true; })).code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace m1
