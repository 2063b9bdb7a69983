#include "common/rpc/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseAddressListTest, TakesEveryKindOfAddress) {
  ASSERT_OK_AND_ASSIGN(
      const std::vector<std::string> addresses,
      ParseAddressList("a:1, unix:/tmp/b ,dns:///experts.default.svc:7000,[::1]:9"));
  EXPECT_THAT(addresses,
              ElementsAre("a:1", "unix:/tmp/b", "dns:///experts.default.svc:7000", "[::1]:9"));
}

TEST(ParseAddressListTest, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "a:1,", "a", ":1", "a:", "a:0", "a:65536", "a:x", "unix:", "dns:///a"}) {
    EXPECT_THAT(ParseAddressList(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("address")))
        << text;
  }
}

TEST(ParseAddressListTest, RefusesDoubles) {
  EXPECT_THAT(ParseAddressList("a:1,b:2,a:1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"a:1\" is listed twice")));
}

}  // namespace
}  // namespace m1
