// The golden checkpoints' answers: tests/golden/README.md says what they are.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/model/tensor_table.h"

namespace m1 {

struct GoldenCase {
  std::string name;
  std::vector<int32_t> prompt_ids;
  std::vector<float> prompt_logprobs;  // [0] is 0
  std::vector<int32_t> greedy_ids;
  std::vector<float> greedy_logprobs;
  bool has_arrays = false;  // all arrays
  bool has_states = false;  // lightning_states
};

struct GoldenCheckpoint {
  std::string directory;
  std::vector<GoldenCase> cases;
  std::unique_ptr<SafetensorsFile> arrays;

  // `<case>.<array>`; must be there.
  ConstTensorView array(const std::string& case_name, const std::string& array_name) const;
};

// Aborts on files that are not as documented.
GoldenCheckpoint LoadGolden(const std::string& name);
// hf-fp32, hf-mixtral-names-fp32, mini-bf16, mini-fp32, shared-fp32.
const std::vector<std::string>& GoldenNames();

}  // namespace m1
