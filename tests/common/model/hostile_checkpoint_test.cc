// Checkpoint directories and files that are broken or malicious: each is refused with a message
// that names file and tensor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/model/checkpoint.h"
#include "tests/support/file_image.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kNorm = "model.layers.2.self_attn.norm.weight";
constexpr const char* kQkv = "model.layers.0.self_attn.qkv_proj.weight";
constexpr const char* kW2 = "model.layers.3.block_sparse_moe.experts.7.w2.weight";
constexpr const char* kGate = "model.layers.1.block_sparse_moe.gate.weight";
constexpr const char* kFirst = "model.embed_tokens.weight";
constexpr const char* kLast = "model.layers.3.block_sparse_moe.experts.7.w3.weight";

struct FileCase {
  std::string text;
  std::string fragment;
};

class HostileCheckpointTest : public testing::Test {
 protected:
  // A good checkpoint in one file, or in shards of about 20 kB.
  std::string Make(const std::string& name, bool sharded, json config = TinyConfig()) {
    RandomCheckpointOptions options;
    if (sharded) options.max_shard_bytes = 20000;
    return WriteTinyCheckpoint(directory_, name, config, options);
  }

  // The checkpoint with one change in its only file.
  std::string MakeChanged(const std::string& name, const std::function<void(FileImage*)>& change,
                          const json& config = TinyConfig()) {
    const std::string path = Make(name, false, config);
    FileImage image = FileImage::Read(path + "/model.safetensors");
    change(&image);
    image.Write(path + "/model.safetensors");
    return path;
  }

  static testing::Matcher<const absl::StatusOr<std::unique_ptr<Checkpoint>>&> Refused(
      const std::string& a, const std::string& b = "") {
    return StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(a), HasSubstr(b)));
  }

  TempDirectory directory_;
};

TEST_F(HostileCheckpointTest, NamesFileAndTensorThatDoNotFitTheConfig) {
  const struct {
    std::function<void(FileImage*)> change;
    std::string fragment;
  } cases[] = {
      {[](FileImage* f) {
         f->header[kQkv]["shape"] = {32, 192};
       },
       "model.safetensors: tensor \"model.layers.0.self_attn.qkv_proj.weight\" has shape [32, "
       "192], "
       "config.json wants [192, 32]"},
      {[](FileImage* f) { f->header[kQkv]["shape"] = {192 * 32}; }, "has shape [6144]"},
      {[](FileImage* f) {
         f->header[kNorm]["shape"] = {64, 1};
       },
       "has shape [64, 1]"},
      {[](FileImage* f) { f->header[kNorm]["dtype"] = "F16"; },
       "tensor \"model.layers.2.self_attn.norm.weight\" is F16, wanted BF16 or F32"},
      {[](FileImage* f) { f->header[kW2]["dtype"] = "F16"; },
       "experts.7.w2.weight\" is F16, wanted BF16 like model.embed_tokens.weight"},
      {[](FileImage* f) { f->header[kGate]["dtype"] = "I32"; },
       "gate.weight\" is I32, wanted BF16"},
      {[](FileImage* f) { f->header["model.embed_tokens.weight"]["dtype"] = "F16"; },
       "tensor \"model.embed_tokens.weight\" is F16, wanted BF16 or F32"},
      {[](FileImage* f) {
         f->header[std::string(kW2) + "x"] = f->header[kW2];
         f->header.erase(kW2);
       },
       "tensor \"model.layers.3.block_sparse_moe.experts.7.w2.weight\" is missing"},
      {[](FileImage* f) { f->Add("model.layers.4.input_layernorm.weight", 32); },
       "tensor \"model.layers.4.input_layernorm.weight\" is unexpected"},
      {[](FileImage* f) { f->Add("model.layers.0.self_attn.slope_rate", 4); },
       "tensor \"model.layers.0.self_attn.slope_rate\" is unexpected"},
      {[](FileImage* f) { f->Add("model.layers.0.block_sparse_moe.experts.8.w1.weight", 768); },
       "experts.8.w1.weight\" is unexpected"},
      {[](FileImage* f) { f->Add("", 1); }, "tensor \"\" is unexpected"},
      {[](FileImage* f) { f->data.pop_back(); }, "truncated"},
      {[](FileImage* f) { f->data.push_back(0); }, "1 bytes that belong to no tensor at the end"},
      {[](FileImage* f) { f->data.clear(); }, "truncated: its bytes end at"},
      {[](FileImage* f) { f->header[kQkv]["data_offsets"] = f->header[kW2]["data_offsets"]; },
       "tensor \"model.layers.0.self_attn.qkv_proj.weight\": has 1536 bytes, shape [192, 32]"},
      {[](FileImage* f) {
         f->header["lm_head.weight"]["data_offsets"] =
             f->header["model.embed_tokens.weight"]["data_offsets"];
       },
       "overlaps tensor"},
      {[](FileImage* f) { f->header = json::object(); }, "belong to no tensor"},
      {[](FileImage* f) {
         f->header = json::object();
         f->data.clear();
       },
       "model.safetensors: tensor \"model.embed_tokens.weight\" is missing"},
  };
  int number = 0;
  for (const auto& c : cases) {
    const std::string path = MakeChanged(absl::StrCat("c", ++number), c.change);
    EXPECT_THAT(Checkpoint::Open(path), Refused(path + "/model.safetensors", c.fragment))
        << c.fragment;
  }
}

TEST_F(HostileCheckpointTest, RefusesFilesThatAreNoSafetensors) {
  const std::string huge_header = std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}";
  const std::string over_limit = std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + "{}";  // 100 000 001
  const std::string over_file = std::string("\x03\0\0\0\0\0\0\0", 8) + "{}";
  const std::vector<FileCase> cases = {
      {"", "0 bytes, too short"},
      {"1234567", "7 bytes, too short"},
      {std::string(8, '\0'), "header: not valid JSON"},
      {huge_header, "header of 18446744073709551615 bytes, limit 100000000"},
      {over_limit, "header of 100000001 bytes, limit"},
      {over_file, "header of 3 bytes, the file has 10"},
      {std::string(100, 'x'), "header of"},
  };
  const std::string path = Make("c", false);
  for (const auto& c : cases) {
    WriteTextFile(path + "/model.safetensors", c.text);
    EXPECT_THAT(Checkpoint::Open(path), Refused(path + "/model.safetensors: ", c.fragment));
  }
}

TEST_F(HostileCheckpointTest, RefusesFilesThatAreNoFiles) {
  const std::string path = Make("c", false);
  const std::string file = path + "/model.safetensors";
  fs::rename(file, directory_.Join("elsewhere"));
  EXPECT_THAT(
      Checkpoint::Open(path),
      StatusIs(absl::StatusCode::kNotFound,
               HasSubstr(path + ": neither model.safetensors nor model.safetensors.index.json")));
  fs::create_directory(file);
  EXPECT_THAT(Checkpoint::Open(path), Refused("model.safetensors: not a regular file"));
  fs::remove(file);
  ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
  EXPECT_THAT(Checkpoint::Open(path), Refused("model.safetensors: not a regular file"));
  fs::remove(file);
  fs::create_symlink("/dev/zero", file);
  EXPECT_THAT(Checkpoint::Open(path), Refused("model.safetensors: not a regular file"));
  fs::remove(file);
  fs::create_symlink("model.safetensors", file);
  EXPECT_THAT(Checkpoint::Open(path), Refused("Too many levels of symbolic links"));
  fs::remove(file);
  fs::create_symlink("../elsewhere", file);
  EXPECT_THAT(Checkpoint::Open(path),
              Refused("a link that leads out of the directory, to ", "elsewhere"));
  EXPECT_THAT(Checkpoint::Open(directory_.Join("absent")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent/config.json")));
  EXPECT_THAT(Checkpoint::Open(directory_.Join("elsewhere")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("Not a directory")));
}

TEST_F(HostileCheckpointTest, AcceptsLinksWithinTheDirectoryAndIntoACacheOfBlobs) {
  const std::string path = Make("cache/snapshots/revision", false);
  const std::string file = path + "/model.safetensors";
  fs::rename(file, path + "/weights");
  fs::create_symlink("weights", file);
  EXPECT_OK(Checkpoint::Open(path));
  fs::remove(file);
  fs::create_directory(directory_.Join("cache/blobs"));
  fs::rename(path + "/weights", directory_.Join("cache/blobs/0a1b"));
  fs::create_symlink("../../blobs/0a1b", file);
  EXPECT_OK(Checkpoint::Open(path));
}

TEST_F(HostileCheckpointTest, NamesTheShardThatDisagreesWithTheIndex) {
  const auto last_shard = [](const std::string& path) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path)) names.push_back(entry.path().filename());
    names.erase(std::remove_if(names.begin(), names.end(),
                               [](const std::string& n) { return n.find("-of-") == n.npos; }),
                names.end());
    return *std::max_element(names.begin(), names.end());
  };
  const struct {
    std::function<void(const std::string& path, const std::string& last, json* map)> change;
    absl::StatusCode code;
    std::string fragment;
  } cases[] = {
      {[](const std::string& path, const std::string& last, json*) {
         fs::remove(path + "/" + last);
       },
       absl::StatusCode::kNotFound, "safetensors: No such file"},
      {[](const std::string&, const std::string&, json* map) { map->erase(kLast); },
       absl::StatusCode::kDataLoss, "w3.weight\" is not in model.safetensors.index.json"},
      {[](const std::string&, const std::string& last, json* map) { (*map)["ghost"] = last; },
       absl::StatusCode::kDataLoss,
       "tensor \"ghost\" is missing, model.safetensors.index.json says"},
      {[](const std::string&, const std::string& last, json* map) { (*map)[kFirst] = last; },
       absl::StatusCode::kDataLoss, "tensor \"model.embed_tokens.weight\" is missing"},
      {[](const std::string& path, const std::string& last, json* map) {
         fs::copy_file(path + "/" + last, path + "/zz.safetensors");
         (*map)["ghost"] = "zz.safetensors";
       },
       absl::StatusCode::kDataLoss, "zz.safetensors: tensor \"model.layers.3"},
      {[](const std::string&, const std::string&, json* map) { *map = json::object(); },
       absl::StatusCode::kDataLoss,
       "model.safetensors.index.json: tensor \"model.embed_tokens.weight\" is missing"},
      {[](const std::string&, const std::string&, json* map) {
         (*map)[kFirst] = "../" + (*map)[kFirst].get<std::string>();
       },
       absl::StatusCode::kDataLoss, "without a path"},
      {[](const std::string& path, const std::string& last, json*) {
         fs::rename(path + "/" + last, path + "/../moved");
         fs::create_symlink("../moved", path + "/" + last);
       },
       absl::StatusCode::kDataLoss, "a link that leads out"},
      {[](const std::string& path, const std::string& last, json*) {
         fs::resize_file(path + "/" + last, fs::file_size(path + "/" + last) - 2);
       },
       absl::StatusCode::kDataLoss, "truncated"},
      {[](const std::string&, const std::string&, json* map) {
         (*map)["ghost"] = std::string(300, 'a') + ".safetensors";
       },
       absl::StatusCode::kDataLoss, "is not a plain name"},
  };
  int number = 0;
  for (const auto& c : cases) {
    const std::string path = Make(absl::StrCat("c", ++number), true);
    const std::string index_path = path + "/model.safetensors.index.json";
    json index = json::parse(ReadTextFile(index_path));
    c.change(path, last_shard(path), &index["weight_map"]);
    WriteTextFile(index_path, index.dump());
    EXPECT_THAT(Checkpoint::Open(path), StatusIs(c.code, HasSubstr(c.fragment))) << number;
  }
}

TEST_F(HostileCheckpointTest, RefusesConfigAndTensorsOfDifferentModels) {
  const struct {
    const char* patch;
    const char* fragment;
  } cases[] = {
      {R"({"num_hidden_layers": 3, "attn_type_list": [0, 1, 0]})",
       "tensor \"model.layers.3.block_sparse_moe.experts.0.w1.weight\" is unexpected"},
      {R"({"attn_type_list": [0, 1, 0, 0]})",
       "tensor \"model.layers.3.self_attn.qkv_proj.weight\" is missing"},
      {R"({"tie_word_embeddings": true})", "tensor \"lm_head.weight\" is unexpected"},
      {R"({"shared_intermediate_size": 8})", "shared_mlp.gate_proj.weight\" is missing"},
      {R"({"num_local_experts": 9})", "gate.weight\" has shape [8, 32], config.json wants [9, 32]"},
      {R"({"num_local_experts": 4})", "gate.weight\" has shape [8, 32]"},
      {R"({"vocab_size": 65})", "embed_tokens.weight\" has shape [64, 32]"},
      {R"({"model_type": "minimax", "rope_theta": 1e4})", ""},
  };
  int number = 0;
  for (const auto& c : cases) {
    const std::string path = Make(absl::StrCat("c", ++number), false);
    json config = TinyConfig();
    config.merge_patch(json::parse(c.patch));
    WriteTextFile(path + "/config.json", config.dump());
    if (*c.fragment == '\0') {
      // The Mixtral names are both formats': only the mathematics differs.
      EXPECT_OK(Checkpoint::Open(path));
    } else {
      EXPECT_THAT(Checkpoint::Open(path), Refused(path, c.fragment)) << c.patch;
    }
  }
}

TEST_F(HostileCheckpointTest, TakesTheSharedExpertsWidthFromTheTensorsAndRefusesAThird) {
  json config = TinyConfig();
  config["shared_intermediate_size"] = 40;
  const std::string path = Make("c", false, config);
  EXPECT_EQ((*Checkpoint::Open(path))->config().shared_intermediate_size, 40);
  // The same tensors, where the config's other key says 40.
  const std::string by_intermediate = [&] {
    json other = config;
    other["intermediate_size"] = 40;
    const std::string made = Make("d", false, other);
    other["shared_intermediate_size"] = 16;
    WriteTextFile(made + "/config.json", other.dump());
    return made;
  }();
  EXPECT_EQ((*Checkpoint::Open(by_intermediate))->config().shared_intermediate_size, 40);
  config["shared_intermediate_size"] = 48;
  WriteTextFile(path + "/config.json", config.dump());
  EXPECT_THAT(
      Checkpoint::Open(path),
      Refused("shared_mlp.gate_proj.weight\" has shape [40, 32], config.json wants [48, 32]"));
}

TEST_F(HostileCheckpointTest, IgnoresDecayTablesOfLightningLayersInTheTransformersFormatOnly) {
  const json config = TinyTransformersConfig();
  const auto with = [](const std::string& name) {
    return [name](FileImage* f) { f->Add(name, 4); };
  };
  EXPECT_OK(Checkpoint::Open(MakeChanged("a", with("model.layers.2.self_attn.key_decay"), config)));
  EXPECT_THAT(
      Checkpoint::Open(MakeChanged("b", with("model.layers.1.self_attn.key_decay"), config)),
      Refused("tensor \"model.layers.1.self_attn.key_decay\" is unexpected"));
  EXPECT_THAT(
      Checkpoint::Open(MakeChanged("c", with("model.layers.02.self_attn.key_decay"), config)),
      Refused("is unexpected"));
  EXPECT_THAT(Checkpoint::Open(MakeChanged("d", with("model.layers.2.self_attn.decay"), config)),
              Refused("is unexpected"));
}

}  // namespace
}  // namespace m1
