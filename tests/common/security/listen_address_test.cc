#include "common/security/listen_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

TEST(ListenAddressTest, KnowsWhatOnlyThisHostReaches) {
  for (const absl::string_view local :
       {"127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost", "unix:/tmp/socket"}) {
    EXPECT_TRUE(IsLocalAddress(local)) << local;
    EXPECT_OK(CheckListener(local, /*has_tls=*/false, /*insecure=*/false));
  }
}

TEST(ListenAddressTest, AnythingElseWantsTlsOrConsent) {
  for (const absl::string_view reachable :
       {"0.0.0.0", "::", "[::]", "10.1.2.3", "fe80::1", "", "router", "localhost.example.org",
        "127.example.org", "127.0.0.1.example.org", "128.0.0.1", "::ffff:10.0.0.1"}) {
    EXPECT_FALSE(IsLocalAddress(reachable)) << reachable;
    EXPECT_THAT(CheckListener(reachable, /*has_tls=*/false, /*insecure=*/false),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         testing::AllOf(testing::HasSubstr("--address"),
                                        testing::HasSubstr("--insecure"))));
    EXPECT_OK(CheckListener(reachable, /*has_tls=*/true, /*insecure=*/false));
    EXPECT_OK(CheckListener(reachable, /*has_tls=*/false, /*insecure=*/true));
  }
}

}  // namespace
}  // namespace m1
