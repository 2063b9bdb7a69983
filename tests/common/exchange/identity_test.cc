#include "common/exchange/identity.h"

#include <gtest/gtest.h>

namespace m1 {
namespace {

const WorkerIdentity kIdentity = {"abc", "bf16", "bf16", "cpu", 1, 1};

TEST(IdentityTest, EqualIdentitiesDoNotDiffer) {
  EXPECT_EQ(IdentityDifference(kIdentity, kIdentity), "");
}

TEST(IdentityTest, NamesEveryFieldThatDiffers) {
  EXPECT_EQ(IdentityDifference(kIdentity, {"abd", "bf16", "bf16", "cpu", 1, 1}),
            "fingerprint: ours \"abc\", theirs \"abd\"");
  EXPECT_EQ(IdentityDifference(kIdentity, {"abc", "int8", "bf16", "cpu", 1, 1}),
            "weight_format: ours \"bf16\", theirs \"int8\"");
  EXPECT_EQ(IdentityDifference(kIdentity, {"abc", "bf16", "fp32", "cuda", 1, 1}),
            "activation_dtype: ours \"bf16\", theirs \"fp32\"; "
            "device_kind: ours \"cpu\", theirs \"cuda\"");
  EXPECT_EQ(IdentityDifference(kIdentity, {"abc", "bf16", "bf16", "cpu", 2, 3}),
            "numerics_revision: ours 1, theirs 2; protocol_revision: ours 1, theirs 3");
}

}  // namespace
}  // namespace m1
