#include "expert_worker/options.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ExpertWorkerOptions Valid() {
  ExpertWorkerOptions options;
  options.model.directory = "models/tiny";
  return options;
}

TEST(ExpertWorkerOptionsTest, DefaultsWithAModelAreValid) { EXPECT_OK(Validate(Valid())); }

TEST(ExpertWorkerOptionsTest, ErrorsNameTheFlag) {
  const auto check = [](const char* flag, auto change) {
    ExpertWorkerOptions options = Valid();
    change(options);
    EXPECT_THAT(Validate(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(flag)));
  };
  check("--model", [](auto& options) { options.model.directory = ""; });
  check("--address", [](auto& options) { options.address = ""; });
  check("--port is -1", [](auto& options) { options.port = -1; });
  check("--port is 65536", [](auto& options) { options.port = 65536; });
  check("--threads is 1025", [](auto& options) { options.model.threads = 1025; });
  check("--exchange_spin is 21us",
        [](auto& options) { options.exchange_spin = absl::Microseconds(21); });
  check("--shard", [](auto& options) { options.experts = "0", options.shard = "0/2"; });
}

TEST(ExpertWorkerOptionsTest, HostsWhatTheFlagsSay) {
  ExpertWorkerOptions options = Valid();
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> all, HostedExperts(options, 4));
  EXPECT_THAT(all, ElementsAre(0, 1, 2, 3));
  options.shard = "1/2";
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> half, HostedExperts(options, 4));
  EXPECT_THAT(half, ElementsAre(2, 3));
  options.shard = "";
  options.experts = "0,2-3";
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> listed, HostedExperts(options, 4));
  EXPECT_THAT(listed, ElementsAre(0, 2, 3));
  options.experts = "4";
  EXPECT_THAT(HostedExperts(options, 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--experts")));
  options.experts = "";
  options.shard = "2/2";
  EXPECT_THAT(HostedExperts(options, 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--shard")));
}

}  // namespace
}  // namespace m1
