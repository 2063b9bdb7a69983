// Products, experts and the operations on single elements.
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/bench/gpu_bench.h"
#include "tools/bench/model_cost.h"

namespace m1 {
namespace {

constexpr auto kBf16 = DType::kBf16;
constexpr auto kF32 = DType::kF32;
constexpr MatrixFormat kFormats[] = {MatrixFormat::kPlain, MatrixFormat::kInt8,
                                     MatrixFormat::kInt4};

double Product(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

const char* Name(MatrixFormat format) {
  switch (format) {
    case MatrixFormat::kInt8:
      return "int8";
    case MatrixFormat::kInt4:
      return "int4";
    case MatrixFormat::kPlain:
      break;
  }
  return "bf16";
}

cuda::PeakKind KindOf(MatrixFormat format) {
  return format == MatrixFormat::kPlain ? cuda::PeakKind::kBf16 : cuda::PeakKind::kInt8;
}

}  // namespace

void GpuBench::RunDense(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t width = int64_t{config_.num_heads} * config_.head_dim;
  for (const MatrixFormat format : kFormats) {
    Linear("qkv", rows, hidden, 3 * width, kBf16, format);
    Linear("out", rows, width, hidden, kBf16, format);
    // A prompt's last row, or all rows of a step of decode.
    if (IsDecode(rows)) Linear("head", rows, hidden, config_.vocab_size, kF32, format);
    ExpertFfn(rows, format);
  }
  Gate(rows);
  Elementwise(rows);
}

void GpuBench::Linear(const std::string& name, int64_t rows, int64_t k, int64_t n, DType x_type,
                      MatrixFormat format) {
  // fp32 rows meet bf16 weights as three terms.
  const double terms = x_type == kF32 && format == MatrixFormat::kPlain ? 3.0 : 1.0;
  const MatrixView like = Weights(format, n, k);
  const GpuWork work{.bytes = static_cast<double>(like.num_bytes()) +
                              Product(rows, k, DTypeBytes(x_type)) + Product(rows, n, 4),
                     .operations = terms * 2 * Product(rows, k, n),
                     .kind = KindOf(format)};
  Report("Linear", absl::StrCat(name, " ", Name(format), " ", rows, " x ", k, " x ", n), work, [&] {
    return backend_->Linear(weights_.Next(x_type, {rows, k}), Weights(format, n, k),
                            Epilogue::kNone, results_.Next(kF32, {rows, n}));
  });
}

void GpuBench::ExpertFfn(int64_t rows, MatrixFormat format) {
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.expert_intermediate_size;
  const int64_t all = rows * config_.num_experts_per_token;
  const auto experts =
      std::lround(ExpectedExperts(config_.num_experts, config_.num_experts_per_token, rows));
  const double weight_bytes =
      2.0 * static_cast<double>(Weights(format, inner, hidden).num_bytes()) +
      static_cast<double>(Weights(format, hidden, inner).num_bytes());
  const GpuWork work{.bytes = static_cast<double>(experts) * weight_bytes +
                              2 * Product(all, hidden, 2) + 2 * Product(all, inner, 2),
                     .operations = 6 * Product(all, hidden, inner),
                     .kind = KindOf(format)};
  Report(
      "ExpertFfn",
      absl::StrCat(Name(format), " ", all, " rows, ", experts, " experts ", hidden, " x ", inner),
      work, [&] {
        std::vector<ExpertGroup> groups;
        for (int64_t e = 0; e < experts; ++e) {
          const int64_t begin = all * e / experts;
          ExpertGroup group{
              begin, all * (e + 1) / experts - begin, Weights(format, inner, hidden), {}, {}};
          group.w2 = Weights(format, hidden, inner);
          group.w3 = Weights(format, inner, hidden);
          groups.push_back(group);
        }
        return backend_->ExpertFfn(weights_.Next(kBf16, {all, hidden}), groups,
                                   results_.Next(kBf16, {all, inner}),
                                   results_.Next(kBf16, {all, hidden}));
      });
}

void GpuBench::Gate(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t experts = config_.num_experts;
  const int64_t k = config_.num_experts_per_token;
  Report("Linear", absl::StrCat("gate fp32 ", rows, " x ", hidden, " x ", experts),
         {.bytes = 4 * (Product(experts, hidden) + Product(rows, hidden) + Product(rows, experts)),
          .operations = 2 * Product(rows, hidden, experts),
          .kind = cuda::PeakKind::kFloat},
         [&] {
           return backend_->Linear(weights_.Next(kF32, {rows, hidden}),
                                   ConstTensorView(weights_.Next(kF32, {experts, hidden})),
                                   Epilogue::kNone, results_.Next(kF32, {rows, experts}));
         });
  Report("TopKGate", absl::StrCat(rows, " x ", experts, ", ", k, " kept"),
         {.bytes = 4 * (Product(rows, experts) + 2 * Product(rows, k))}, [&] {
           return backend_->TopKGate(weights_.Next(kF32, {rows, experts}),
                                     results_.Next(DType::kI32, {rows, k}),
                                     results_.Next(kF32, {rows, k}));
         });
}

void GpuBench::Elementwise(int64_t rows) {
  const int64_t hidden = config_.hidden_size;
  const int64_t k = config_.num_experts_per_token;
  const Shape shape{rows, hidden};
  const std::string size = absl::StrCat(rows, " x ", hidden);
  const double elements = Product(rows, hidden);
  const auto in = [&] { return weights_.Next(kF32, shape); };
  const auto out = [&] { return results_.Next(kF32, shape); };
  const auto out_act = [&] { return results_.Next(kBf16, shape); };
  Report("RmsNorm", size, {.bytes = 8 * elements},
         [&] { return backend_->RmsNorm(in(), weights_.Next(kBf16, {hidden}), 1e-5F, out()); });
  Report("Round", size, {.bytes = 6 * elements}, [&] { return backend_->Round(in(), out_act()); });
  Report("ScaledAdd", size, {.bytes = 12 * elements},
         [&] { return backend_->ScaledAdd(3.5F, in(), 1.0F, in(), out()); });
  Report("SigmoidMul", size, {.bytes = 10 * elements},
         [&] { return backend_->SigmoidMul(in(), in(), out_act()); });
  Report("SharedExpertMix", size, {.bytes = 12 * elements}, [&] {
    return backend_->SharedExpertMix(in(), in(), weights_.Next(kF32, {rows, 1}), out());
  });
  Report("CombineExperts", absl::StrCat(size, ", ", k, " experts"),
         {.bytes = (2 * static_cast<double>(k) + 4) * elements}, [&] {
           return backend_->CombineExperts(weights_.Next(kBf16, {rows, k, hidden}),
                                           weights_.Next(kF32, {rows, k}), out());
         });
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(i * 7919 % static_cast<size_t>(config_.vocab_size));
  }
  Report("Embed", size, {.bytes = 6 * elements}, [&] {
    return backend_->Embed(ids, weights_.Next(kBf16, {config_.vocab_size, hidden}), out());
  });
  std::vector<int32_t> places(ids.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i);
  Report("CopyRows", absl::StrCat(size, " bf16"), {.bytes = 4 * elements}, [&] {
    return backend_->CopyRows(weights_.Next(kBf16, shape), places, out_act(), places);
  });
}

}  // namespace m1
