// Products, experts and the operations on single elements.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

#include "tools/bench/model_cost.h"
#include "tools/bench/op_bench.h"

namespace m1 {
namespace {

constexpr int64_t kMostHeadColumns =
    32768;  // of a larger vocabulary; the head of M1 alone is 2.5 GB
constexpr auto kBf16 = DType::kBf16;
constexpr auto kF32 = DType::kF32;

double Product(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

}  // namespace

void OpBench::RunDense(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t width = int64_t{config_.num_heads} * config_.head_dim;
  Linear("qkv", rows, hidden, 3 * width, kBf16, kBf16);
  Linear("out", rows, width, hidden, kBf16, kBf16);
  Linear("gate", rows, hidden, config_.num_experts, kF32, kF32);
  if (rows <= 64)
    Linear("head", rows, hidden, std::min<int64_t>(config_.vocab_size, kMostHeadColumns), kF32,
           kBf16);
  GatedUp(rows);
  ExpertFfn(rows);
  Elementwise(rows);
  Gate(rows);
}

void OpBench::Linear(const std::string& name, int64_t rows, int64_t in, int64_t out, DType x_dtype,
                     DType w_dtype) {
  const Tensor x = Filled(x_dtype, {rows, in});
  Tensor y(kF32, {rows, out});
  OpWork work{.memory_bytes = Product(in, out, DTypeBytes(w_dtype)),
              .cached_bytes = Product(rows, in, DTypeBytes(x_dtype))};
  (x_dtype == kBf16 ? work.pair_flops : work.fp32_flops) = 2 * Product(rows, in, out);
  Report("Linear", absl::StrCat(name, " ", rows, " x ", in, " x ", out), work, [&] {
    return backend_->Linear(x.view(), Cold(w_dtype, {out, in}), Epilogue::kNone, y.view());
  });
}

void OpBench::GatedUp(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.expert_intermediate_size;
  const Tensor x = Filled(kBf16, {rows, hidden});
  Tensor y(kBf16, {rows, inner});
  const OpWork work{.memory_bytes = 2 * Product(inner, hidden, 2),
                    .cached_bytes = Product(rows, hidden, 2),
                    .pair_flops = 4 * Product(rows, hidden, inner)};
  Report("GatedUp", absl::StrCat(rows, " x ", hidden, " x ", inner), work, [&] {
    const ConstTensorView gate = Cold(kBf16, {inner, hidden});
    return backend_->GatedUp(x.view(), gate, Cold(kBf16, {inner, hidden}), y.view());
  });
}

void OpBench::ExpertFfn(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.expert_intermediate_size;
  const int64_t all = rows * config_.num_experts_per_token;
  const auto experts =
      std::lround(ExpectedExperts(config_.num_experts, config_.num_experts_per_token, rows));
  const Tensor x = Filled(kBf16, {all, hidden});
  Tensor mid(kBf16, {all, inner});
  Tensor y(kBf16, {all, hidden});
  const OpWork work{.memory_bytes = static_cast<double>(experts) * 3 * Product(hidden, inner, 2),
                    .cached_bytes = Product(all, hidden, 2) + Product(all, inner, 2),
                    .pair_flops = 6 * Product(all, hidden, inner)};
  Report("ExpertFfn", absl::StrCat(all, " rows, ", experts, " experts ", hidden, " x ", inner),
         work, [&] {
           std::vector<ExpertGroup> groups;
           for (int64_t e = 0; e < experts; ++e) {
             const int64_t begin = all * e / experts;
             ExpertGroup group{
                 begin, all * (e + 1) / experts - begin, Cold(kBf16, {inner, hidden}), {}, {}};
             group.w2 = Cold(kBf16, {hidden, inner});
             group.w3 = Cold(kBf16, {inner, hidden});
             groups.push_back(group);
           }
           return backend_->ExpertFfn(x.view(), groups, mid.view(), y.view());
         });
}

void OpBench::Elementwise(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t k = config_.num_experts_per_token;
  const std::string size = absl::StrCat(rows, " x ", hidden);
  const double row_bytes = Product(rows, hidden, 4);  // of an fp32 tensor
  const double elements = Product(rows, hidden);
  const Tensor x = Filled(kF32, {rows, hidden});
  const Tensor y = Filled(kF32, {rows, hidden});
  const Tensor weight = Filled(kF32, {hidden});
  Tensor out(kF32, {rows, hidden});
  Tensor act(kBf16, {rows, hidden});
  Report("RmsNorm", size, {.cached_bytes = row_bytes, .fp32_flops = 4 * elements},
         [&] { return backend_->RmsNorm(x.view(), weight.view(), 1e-5F, out.view()); });
  Report("Round", size, {.cached_bytes = row_bytes},
         [&] { return backend_->Round(x.view(), act.view()); });
  Report("ScaledAdd", size, {.cached_bytes = 2 * row_bytes, .fp32_flops = 3 * elements},
         [&] { return backend_->ScaledAdd(3.5F, x.view(), 1.0F, y.view(), out.view()); });
  Report("SigmoidMul", size, {.cached_bytes = 2 * row_bytes, .fp32_flops = 2 * elements},
         [&] { return backend_->SigmoidMul(x.view(), y.view(), act.view()); });
  const Tensor coefficient = Filled(kF32, {rows, 1});
  Report("SharedExpertMix", size, {.cached_bytes = 2 * row_bytes, .fp32_flops = 3 * elements}, [&] {
    return backend_->SharedExpertMix(x.view(), y.view(), coefficient.view(), out.view());
  });
  const Tensor experts = Filled(kBf16, {rows, k, hidden});
  const Tensor weights = Filled(kF32, {rows, k});
  const auto per_token = static_cast<double>(k);
  Report("CombineExperts", absl::StrCat(size, ", ", k, " experts"),
         {.cached_bytes = per_token / 2 * row_bytes, .fp32_flops = 2 * per_token * elements},
         [&] { return backend_->CombineExperts(experts.view(), weights.view(), out.view()); });
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(
        i * 7919 % static_cast<size_t>(std::min<int64_t>(config_.vocab_size, kMostHeadColumns)));
  }
  Report("Embed", size, {.cached_bytes = row_bytes / 2}, [&] {
    return backend_->Embed(
        ids, Cold(kBf16, {std::min<int64_t>(config_.vocab_size, kMostHeadColumns), hidden}),
        out.view());
  });
}

void OpBench::Gate(int64_t rows) {
  const int64_t experts = config_.num_experts;
  const int64_t k = config_.num_experts_per_token;
  Tensor logits(kF32, {rows, experts});
  for (int64_t i = 0; i < rows * experts; ++i)
    logits.data_as<float>()[i] = static_cast<float>(i * 37 % 101) * 0.01F;
  Tensor ids(DType::kI32, {rows, k});
  Tensor weights(kF32, {rows, k});
  Report("TopKGate", absl::StrCat(rows, " x ", experts, ", ", k, " kept"),
         {.cached_bytes = Product(rows, experts, 4), .fp32_flops = 2 * Product(rows, experts)},
         [&] { return backend_->TopKGate(logits.view(), ids.view(), weights.view()); });
}

}  // namespace m1
