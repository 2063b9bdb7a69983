// Small random checkpoints in temporary directories.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "common/model/checkpoint_writer.h"

namespace m1 {

// A fresh directory, removed with all it holds.
class TempDirectory {
 public:
  TempDirectory() {
    path_ = (std::filesystem::temp_directory_path() / "m1-test-XXXXXX").string();
    M1_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string Join(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string ReadTextFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  M1_CHECK_MSG(file.good(), path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Also makes the directory.
inline void WriteTextFile(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  M1_CHECK_MSG(file.good(), path);
}

// The original format in small: 4 layers (lightning, softmax, lightning, softmax), 8 experts.
inline nlohmann::json TinyConfig() {
  return {{"model_type", "minimax_m1"},
          {"num_hidden_layers", 4},
          {"hidden_size", 32},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 16},
          {"rotary_dim", 8},
          {"rope_theta", 10000.0},
          {"num_local_experts", 8},
          {"num_experts_per_tok", 2},
          {"intermediate_size", 24},
          {"vocab_size", 64},
          {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},
          {"postnorm", true},
          {"hidden_act", "silu"},
          {"attn_type_list", {0, 1, 0, 1}},
          {"eos_token_id", 1}};
}

// The same in the transformers format.
inline nlohmann::json TinyTransformersConfig() {
  nlohmann::json config = TinyConfig();
  config["model_type"] = "minimax";
  config.erase("attn_type_list");
  config.erase("rotary_dim");
  config["layer_types"] = {"linear_attention", "full_attention", "linear_attention",
                           "full_attention"};
  return config;
}

// Writes a checkpoint of `config` to DIRECTORY/NAME and returns that path. config_path and out_dir
// of `options` are filled in here.
inline std::string WriteTinyCheckpoint(const TempDirectory& directory, const std::string& name,
                                       const nlohmann::json& config,
                                       RandomCheckpointOptions options = {}) {
  options.config_path = directory.Join(name + ".config.json");
  options.out_dir = directory.Join(name);
  WriteTextFile(options.config_path, config.dump(2));
  const absl::Status status = WriteRandomCheckpoint(options);
  M1_CHECK_MSG(status.ok(), status.ToString());
  return options.out_dir;
}

}  // namespace m1
