#include "tests/support/wide_heads.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "common/model/safetensors_writer.h"
#include "common/model/tensor_table.h"
#include "common/tensor/tensor.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

constexpr int64_t kTimes = 4;

// The matrix as [outer, head_dim, inner] with zeros after each head, times `factor`.
Tensor Widened(ConstTensorView x, const Shape& shape, int64_t head_dim, int64_t inner,
               float factor) {
  M1_CHECK(x.dtype() == DType::kBf16);
  Tensor out(DType::kBf16, shape);
  const int64_t head = head_dim * inner;
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    const float value = Bf16ToFloat(x.data_as<Bf16>()[i]) * factor;
    out.data_as<Bf16>()[i / head * kTimes * head + i % head] = FloatToBf16(value);
  }
  return out;
}

bool EndsWith(const std::string& name, const std::string& end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

Tensor Converted(const std::string& name, ConstTensorView x, int64_t head_dim) {
  for (const char* rows : {"qkv_proj.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight",
                           "output_gate.weight"}) {
    if (!EndsWith(name, std::string("self_attn.") + rows)) continue;
    const float factor = std::string(rows) == "q_proj.weight" ? 2.0F : 1.0F;
    return Widened(x, {kTimes * x.dim(0), x.dim(1)}, head_dim, x.dim(1), factor);
  }
  if (EndsWith(name, "self_attn.norm.weight")) {
    return Widened(x, {kTimes * x.dim(0)}, head_dim, 1, 0.5F);
  }
  if (EndsWith(name, "self_attn.out_proj.weight") || EndsWith(name, "self_attn.o_proj.weight")) {
    return Widened(x, {x.dim(0), kTimes * x.dim(1)}, head_dim, 1, 1.0F);
  }
  Tensor same(x.dtype(), x.shape());
  std::copy_n(static_cast<const std::byte*>(x.data()), x.num_bytes(),
              static_cast<std::byte*>(same.view().data()));
  return same;
}

void WriteTensors(const std::string& path,
                  const std::vector<std::pair<std::string, Tensor>>& tensors) {
  std::vector<SafetensorsTensor> header;
  for (const auto& [name, tensor] : tensors) {
    header.push_back({name, tensor.dtype(), tensor.shape()});
  }
  auto writer = SafetensorsWriter::Create(path, header);
  M1_CHECK_MSG(writer.ok(), std::string(writer.status().message()));
  for (const auto& [name, tensor] : tensors) {
    const ConstTensorView view = tensor.view();
    M1_CHECK((*writer)
                 ->Append({static_cast<const std::byte*>(view.data()),
                           static_cast<size_t>(view.num_bytes())})
                 .ok());
  }
  M1_CHECK((*writer)->Finish().ok());
}

}  // namespace

void WriteWithWideHeads(const std::string& model_dir, const std::string& out_dir) {
  nlohmann::json config = nlohmann::json::parse(ReadTextFile(model_dir + "/config.json"));
  const int64_t head_dim = config["head_dim"];
  config["head_dim"] = kTimes * head_dim;
  const auto table = TensorTable::Open(model_dir);
  M1_CHECK_MSG(table.ok(), std::string(table.status().message()));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, record] : table->records()) {
    tensors.emplace_back(name, Converted(name, record.view(), head_dim));
  }
  // Those of larger elements first: none is misaligned.
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return DTypeBytes(a.second.dtype()) > DTypeBytes(b.second.dtype());
  });
  WriteTextFile(out_dir + "/config.json", config.dump(2));
  WriteTensors(out_dir + "/model.safetensors", tensors);
}

}  // namespace m1
