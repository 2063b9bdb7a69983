#include "tests/support/golden.h"

#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "common/base/check.h"

namespace m1 {
namespace {

std::vector<float> Logprobs(const nlohmann::json& values) {
  std::vector<float> logprobs;
  for (const auto& value : values) logprobs.push_back(value.is_null() ? 0.0F : value.get<float>());
  return logprobs;
}

bool Has(const nlohmann::json& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

ConstTensorView GoldenCheckpoint::array(const std::string& case_name,
                                        const std::string& array_name) const {
  const std::string name = case_name + "." + array_name;
  for (const SafetensorsEntry& entry : arrays->entries()) {
    if (entry.name == name) return arrays->view(entry);
  }
  CheckFailed(__FILE__, __LINE__, "golden array", name);
}

GoldenCheckpoint LoadGolden(const std::string& name) {
  GoldenCheckpoint golden;
  golden.directory = "tests/golden/" + name;
  std::ifstream file(golden.directory + "/golden.json");
  M1_CHECK_MSG(file.good(), golden.directory);
  const nlohmann::json answers = nlohmann::json::parse(file);
  for (const auto& entry : answers["cases"]) {
    golden.cases.push_back({.name = entry["name"],
                            .prompt_ids = entry["prompt_ids"],
                            .prompt_logprobs = Logprobs(entry["prompt_logprobs"]),
                            .greedy_ids = entry["greedy_ids"],
                            .greedy_logprobs = Logprobs(entry["greedy_logprobs"]),
                            .has_arrays = Has(entry["arrays"], "hidden"),
                            .has_states = Has(entry["arrays"], "lightning_states")});
  }
  M1_CHECK_MSG(golden.cases.size() == 13, golden.directory);
  auto arrays = SafetensorsFile::Open(golden.directory, "golden.safetensors");
  M1_CHECK_MSG(arrays.ok(), std::string(arrays.status().message()));
  golden.arrays = *std::move(arrays);
  return golden;
}

const std::vector<std::string>& GoldenNames() {
  static const std::vector<std::string> names = {"hf-fp32", "hf-mixtral-names-fp32", "mini-bf16",
                                                 "mini-fp32", "shared-fp32"};
  return names;
}

}  // namespace m1
