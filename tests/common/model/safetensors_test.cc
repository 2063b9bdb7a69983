// Headers and indices that are broken or malicious, and what the format allows.
#include "common/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/model/tensor_table.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

struct HeaderCase {
  std::string header;
  std::string fragment;
};

// A tensor "t" of a file with 16 bytes of data.
std::string OneTensor(const std::string& fields) { return R"({"t": {)" + fields + "}}"; }

TEST(SafetensorsHeaderTest, IsRefusedNamingTheTensor) {
  const std::string ok_dtype = R"("dtype": "F32", )";
  const std::string ok_shape = R"("shape": [4], )";
  const std::string ok_offsets = R"("data_offsets": [0, 16])";
  const std::vector<HeaderCase> cases = {
      {"", "header: not valid JSON"},
      {"{", "header: not valid JSON"},
      {"[]", "header: the document is an array"},
      {"\xff\xfe", "header: not valid JSON"},
      {R"({"t": 1})", "tensor \"t\": is 1, wanted an object"},
      {R"({"t": null})", "tensor \"t\": is null"},
      {R"({"t": []})", "tensor \"t\": is an array of 0"},
      {OneTensor(""), "tensor \"t\": dtype is missing"},
      {OneTensor(ok_dtype + ok_offsets), "tensor \"t\": shape is missing"},
      {OneTensor(ok_dtype + R"("shape": [4])"), "tensor \"t\": data_offsets is missing"},
      {OneTensor(R"("dtype": 7, )" + ok_shape + ok_offsets), "dtype is 7, wanted F32, BF16"},
      {OneTensor(R"("dtype": "F64", )" + ok_shape + ok_offsets), "dtype is \"F64\""},
      {OneTensor(R"("dtype": "f32", )" + ok_shape + ok_offsets), "dtype is \"f32\""},
      {OneTensor(R"("dtype": "F8_E4M3", )" + ok_shape + ok_offsets), "dtype is \"F8_E4M3\""},
      {OneTensor(ok_dtype + R"("shape": 4, )" + ok_offsets), "shape is 4, wanted an array"},
      {OneTensor(ok_dtype + R"("shape": [-4], )" + ok_offsets), "shape has -4"},
      {OneTensor(ok_dtype + R"("shape": [4.0], )" + ok_offsets), "shape has 4.0"},
      {OneTensor(ok_dtype + R"("shape": ["4"], )" + ok_offsets), "shape has \"4\""},
      {OneTensor(ok_dtype + R"("shape": [18446744073709551615], )" + ok_offsets), "shape has 1844"},
      {OneTensor(ok_dtype + R"("shape": [1e2], )" + ok_offsets), "shape has 100.0"},
      {OneTensor(ok_dtype + R"("shape": [1,1,1,1,1,1,4], )" + ok_offsets), "at most 6"},
      {OneTensor(ok_dtype + R"("shape": [4294967296, 4294967296], )" + ok_offsets), "overflows"},
      {OneTensor(ok_dtype + R"("shape": [9223372036854775807], )" + ok_offsets), "overflows"},
      // The product wraps to 16 bytes in 64-bit arithmetic.
      {OneTensor(ok_dtype + R"("shape": [4611686018427387908], )" + ok_offsets), "overflows"},
      {OneTensor(ok_dtype + R"("shape": [[4]], )" + ok_offsets), "shape has an array of 1"},
      {R"({"t": {"shape": [[[4]]]}})", "header: nested deeper than 4 levels"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": 16)"), "data_offsets is 16"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [16])"), "data_offsets is an array of 1"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0, 8, 16])"), "wanted [begin, end]"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [-16, 0])"), "data_offsets is [-16, 0]"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [16, 0])"), "wanted 0 <= begin <= end"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0.0, 16])"),
       "data_offsets is [0.0, 16]"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": ["0", "16"])"), "data_offsets is [\"0\""},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0, 17])"),
       "truncated: its bytes end at 17"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [16, 32])"),
       "truncated: its bytes end at 32"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0, 9223372036854775807])"), "truncated"},
      {OneTensor(ok_dtype + ok_shape +
                 R"("data_offsets": [9223372036854775792, 9223372036854775807])"),
       "truncated"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0, 18446744073709551615])"),
       "data_offsets is [0, 18446744073709551615]"},
      {OneTensor(ok_dtype + ok_shape + R"("data_offsets": [0, 12])"),
       "has 12 bytes, shape [4] of F32 "
       "takes 16"},
      {OneTensor(ok_dtype + R"("shape": [3], "data_offsets": [0, 16])"), "has 16 bytes, shape [3]"},
      {OneTensor(ok_dtype + R"("shape": [], "data_offsets": [0, 16])"), "has 16 bytes, shape []"},
      {OneTensor(ok_dtype + R"("shape": [0], "data_offsets": [0, 16])"), "has 16 bytes, shape [0]"},
      {OneTensor(ok_dtype + R"("shape": [3], "data_offsets": [4, 16])"),
       "4 bytes that belong to no "
       "tensor before tensor \"t\""},
      {OneTensor(ok_dtype + R"("shape": [3], "data_offsets": [0, 12])"),
       "4 bytes that belong to no "
       "tensor at the end"},
      {OneTensor(ok_dtype + R"("shape": [3], "data_offsets": [2, 14])"),
       "tensor \"t\": misaligned: "
       "begins at byte 10"},
      {"{}", "16 bytes that belong to no tensor"},
      {R"({"__metadata__": {}})", "16 bytes that belong to no tensor"},
      {OneTensor(ok_dtype + ok_dtype + ok_shape + ok_offsets), "key \"dtype\" stands twice"},
      {R"({"t": {}, "t": {}})", "key \"t\" stands twice"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
           "b": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}})",
       "tensor \"b\" overlaps tensor \"a\""},
      {R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
           "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})",
       "overlaps tensor"},
      {R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
           "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
       "tensor \"b\" overlaps tensor \"a\""},
      {R"({"a": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]},
           "b": {"dtype": "BF16", "shape": [6], "data_offsets": [3, 15]}})",
       "tensor \"b\": misaligned"},
  };
  for (const HeaderCase& c : cases) {
    EXPECT_THAT(ParseSafetensorsHeader(c.header, /*data_begin=*/8, /*file_bytes=*/24),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(c.fragment)))
        << c.header;
  }
}

TEST(SafetensorsHeaderTest, WhatTheFormatAllowsIsAccepted) {
  ASSERT_OK_AND_ASSIGN(
      const std::vector<SafetensorsEntry> entries,
      ParseSafetensorsHeader(R"({"b": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]},
           "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]},
           "__metadata__": {"format": "pt"}}   )",
                             8, 24));
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "empty");
  EXPECT_EQ(entries[1].offset_bytes, 8);
  EXPECT_OK(ParseSafetensorsHeader(
      R"({"s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}})", 8, 12));
}

TEST(WeightMapTest, IsRefusedNamingTheTensor) {
  const std::vector<HeaderCase> cases = {
      {"", "not valid JSON"},
      {"[]", "the document is an array"},
      {"{}", "weight_map is missing"},
      {R"({"weight_map": null})", "weight_map is null, wanted an object"},
      {R"({"weight_map": []})", "weight_map is an array"},
      {R"({"weight_map": {"t": 1}})", "tensor \"t\" is in file 1, wanted NAME.safetensors"},
      {R"({"weight_map": {"t": null}})", "tensor \"t\" is in file null"},
      {R"({"weight_map": {"t": ""}})", "tensor \"t\" is in file \"\""},
      {R"({"weight_map": {"t": "a.bin"}})", "tensor \"t\" is in file \"a.bin\""},
      {R"({"weight_map": {"t": "../a.safetensors"}})", "\"../a.safetensors\", wanted"},
      {R"({"weight_map": {"t": "/etc/a.safetensors"}})", "\"/etc/a.safetensors\", wanted"},
      {R"({"weight_map": {"t": "sub/a.safetensors"}})", "without a path"},
      {R"({"weight_map": {"t": "a.safetensors", "t": "b.safetensors"}})", "\"t\" stands twice"},
      {R"({"weight_map": {}, "weight_map": {}})", "\"weight_map\" stands twice"},
      {R"({"weight_map": )" + std::string(100000, '['), "deeper than 8 levels"},
  };
  for (const HeaderCase& c : cases) {
    EXPECT_THAT(ParseWeightMap(c.header),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(c.fragment)))
        << c.header.substr(0, 100);
  }
}

}  // namespace
}  // namespace m1
