// Wrong shapes and dtypes are InvalidArgument with what, got and wanted: on the reference and on
// the CPU backend.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"

#include "common/kernels/cpu_backend.h"
#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

class ValidateTest : public testing::TestWithParam<bool> {
 protected:
  ValidateTest() : backend_(GetParam() ? CreateReferenceBackend() : CreateCpuBackend({}).value()) {}

  static void ExpectRefused(const absl::Status& status, const char* message) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }

  std::unique_ptr<KernelBackend> backend_;
  Tensor f23_{DType::kF32, {2, 3}};
  Tensor f32_{DType::kF32, {3, 2}};
  Tensor f22_{DType::kF32, {2, 2}};
  Tensor b23_{DType::kBf16, {2, 3}};
  Tensor b22_{DType::kBf16, {2, 2}};
  Tensor i22_{DType::kI32, {2, 2}};
  Tensor f2_{DType::kF32, {2}};
  Tensor f3_{DType::kF32, {3}};
};

TEST_P(ValidateTest, Embed) {
  const std::array<int32_t, 2> ids{0, 1};
  ASSERT_OK(backend_->Embed(ids, b23_.view(), f23_.view()));
  ExpectRefused(backend_->Embed(ids, b23_.view(), f22_.view()),
                "embed: out has shape [2, 2], wanted [2, 3]");
  for (const int32_t id : {-1, 2}) {
    const std::array<int32_t, 2> bad{0, id};
    ExpectRefused(backend_->Embed(bad, b23_.view(), f23_.view()), "is outside [0, 2)");
  }
}

TEST_P(ValidateTest, RmsNorm) {
  ASSERT_OK(backend_->RmsNorm(f23_.view(), f3_.view(), 1e-5f, f23_.view()));
  ExpectRefused(backend_->RmsNorm(f23_.view(), f2_.view(), 1e-5f, f23_.view()),
                "rms_norm: weight has shape [2], wanted [3]");
  ExpectRefused(backend_->RmsNorm(b23_.view(), f3_.view(), 1e-5f, f23_.view()),
                "rms_norm: x is bf16, wanted fp32");
}

TEST_P(ValidateTest, Round) {
  ASSERT_OK(backend_->Round(f23_.view(), b23_.view()));
  ExpectRefused(backend_->Round(f23_.view(), b22_.view()), "round: out has shape");
  ExpectRefused(backend_->Round(f22_.view(), i22_.view()), "round: out is int32");
}

TEST_P(ValidateTest, Linear) {
  ASSERT_OK(backend_->Linear(f23_.view(), b23_.view(), Epilogue::kNone, f22_.view()));
  ExpectRefused(backend_->Linear(f23_.view(), f32_.view(), Epilogue::kNone, f22_.view()),
                "linear: w has shape [3, 2], wanted [3, 3]");
  ExpectRefused(backend_->Linear(f23_.view(), f23_.view(), Epilogue::kNone, f23_.view()),
                "linear: out has shape [2, 3], wanted [2, 2]");
  ExpectRefused(backend_->Linear(f2_.view(), f23_.view(), Epilogue::kNone, f22_.view()),
                "linear: x has shape [2], wanted 2 axes");
}

TEST_P(ValidateTest, GatedUp) {
  ASSERT_OK(backend_->GatedUp(f23_.view(), b23_.view(), b23_.view(), f22_.view()));
  ExpectRefused(backend_->GatedUp(f23_.view(), b23_.view(), b22_.view(), f22_.view()),
                "gated_up: up has shape");
  ExpectRefused(backend_->GatedUp(f23_.view(), b23_.view(), b23_.view(), b22_.view()),
                "gated_up: out is bf16, wanted fp32");
}

TEST_P(ValidateTest, ExpertFfn) {
  const Tensor w1(DType::kBf16, {2, 3});
  const Tensor w2(DType::kBf16, {3, 2});
  Tensor out(DType::kF32, {2, 3});
  const auto run = [&](int64_t row_begin, int64_t num_rows, ConstTensorView down) {
    const ExpertGroup group{row_begin, num_rows, w1.view(), down, w1.view()};
    return backend_->ExpertFfn(f23_.view(), {&group, 1}, f22_.view(), out.view());
  };
  ASSERT_OK(run(0, 2, w2.view()));
  ExpectRefused(run(1, 2, w2.view()), "expert_ffn: group [1, +2) is outside 2 rows");
  ExpectRefused(run(-1, 1, w2.view()), "expert_ffn: group");
  ExpectRefused(run(0, std::numeric_limits<int64_t>::max(), w2.view()), "expert_ffn: group");
  ExpectRefused(run(0, 2, w1.view()), "expert_ffn: w2 has shape [2, 3], wanted [3, 2]");
}

TEST_P(ValidateTest, ElementwiseOperations) {
  ExpectRefused(backend_->ScaledAdd(1.0f, f23_.view(), 1.0f, f22_.view(), f23_.view()),
                "scaled_add: y has shape");
  ExpectRefused(backend_->SigmoidMul(f23_.view(), f22_.view(), f23_.view()),
                "sigmoid_mul: gate has shape");
  ExpectRefused(backend_->SharedExpertMix(f23_.view(), f23_.view(), f2_.view(), f23_.view()),
                "shared_expert_mix: coefficient_logit has shape [2], wanted [2, 1]");
}

TEST_P(ValidateTest, TopKGate) {
  ASSERT_OK(backend_->TopKGate(f23_.view(), i22_.view(), f22_.view()));
  ExpectRefused(backend_->TopKGate(f2_.view(), i22_.view(), f22_.view()), "top_k_gate: logits");
  Tensor ids(DType::kI32, {2, 4});
  Tensor weights(DType::kF32, {2, 4});
  ExpectRefused(backend_->TopKGate(f23_.view(), ids.view(), weights.view()), "top_k_gate");
}

TEST_P(ValidateTest, CombineExperts) {
  Tensor y(DType::kBf16, {2, 2, 3});
  ASSERT_OK(backend_->CombineExperts(y.view(), f22_.view(), f23_.view()));
  ExpectRefused(backend_->CombineExperts(y.view(), f23_.view(), f23_.view()),
                "combine_experts: weights has shape [2, 3], wanted [2, 2]");
  Tensor none(DType::kBf16, {2, 0, 3});
  ExpectRefused(backend_->CombineExperts(none.view(), f22_.view(), f23_.view()), "k is 0");
}

TEST_P(ValidateTest, LogSumExp) {
  const std::vector<float> temperatures = {1.0f, 0.0f, 1.0f};
  std::vector<float> lse(2);
  ExpectRefused(backend_->LogSumExp(f23_.view(), std::span(temperatures).first(2), lse),
                "temperature 0 of row 1 is not > 0");
  ExpectRefused(backend_->LogSumExp(f23_.view(), temperatures, lse),
                "log_sum_exp: 3 temperatures and 2 results for 2 rows");
}

TEST_P(ValidateTest, Transfers) {
  ExpectRefused(backend_->Upload(f23_.view(), b23_.view()), "transfer: out is bf16, wanted fp32");
  ExpectRefused(backend_->Download(f23_.view(), f22_.view()),
                "transfer: out has shape [2, 2], wanted [2, 3]");
}

TEST_P(ValidateTest, CopyRows) {
  const auto copy = [this](std::vector<int32_t> from, std::vector<int32_t> to) {
    return backend_->CopyRows(f23_.view(), from, f23_.view(), to);
  };
  ExpectRefused(copy({0}, {}), "copy_rows: 1 rows of x for 0 of out");
  ExpectRefused(copy({2}, {0}), "copy_rows: x: row 2 is outside [0, 2)");
  ExpectRefused(copy({0}, {-1}), "copy_rows: out: row -1 is outside [0, 2)");
  const int32_t row = 0;
  ExpectRefused(backend_->CopyRows(f23_.view(), {&row, 1}, f22_.view(), {&row, 1}),
                "copy_rows: out has shape [2, 2], wanted [2, 3]");
}

TEST_P(ValidateTest, Rotary) {
  Tensor x(DType::kF32, {2, 1, 3});
  Tensor angles(DType::kF32, {2, 1});
  ASSERT_OK(backend_->Rotary(x.view(), angles.view(), angles.view(), x.view()));
  ExpectRefused(backend_->Rotary(x.view(), f22_.view(), f22_.view(), x.view()), "wider than");
  ExpectRefused(backend_->Rotary(x.view(), f32_.view(), f32_.view(), x.view()), "rotary: cos");
}

class ValidateAttentionTest : public ValidateTest {
 protected:
  Tensor q_{DType::kF32, {2, 4, 3}};
  Tensor k_{DType::kF32, {2, 2, 3}};
  Tensor out_{DType::kF32, {2, 4, 3}};
  Tensor pool_k_{DType::kF32, {2, 2, 64, 3}};
  Tensor pool_v_{DType::kF32, {2, 2, 64, 3}};
  const std::array<int32_t, 1> table_{1};

  KvPool Pool() { return {pool_k_.view(), pool_v_.view()}; }
  absl::Status Append(const PagedSequence& sequence) {
    return backend_->AppendKv(k_.view(), k_.view(), {&sequence, 1}, Pool());
  }
  absl::Status Attend(const PagedSequence& sequence) {
    return backend_->SoftmaxAttention(q_.view(), {&sequence, 1}, Pool(), out_.view());
  }
};

TEST_P(ValidateAttentionTest, SequencesOutsideTheStepOrTheirBlocks) {
  ASSERT_OK(Append({{0, 2, 62}, table_}));
  ASSERT_OK(Attend({{0, 2, 62}, table_}));
  const std::array<int32_t, 1> outside{2};
  const std::array<int32_t, 1> negative{-1};
  const PagedSequence bad[] = {{{1, 2, 0}, table_},
                               {{0, 2, 63}, table_},
                               {{0, 2, -1}, table_},
                               {{-1, 1, 0}, table_},
                               {{0, 1, std::numeric_limits<int64_t>::max()}, table_},
                               {{std::numeric_limits<int64_t>::max(), 1, 0}, table_},
                               {{0, 1, 0}, outside},
                               {{0, 1, 0}, negative},
                               {{0, 1, 0}, {}}};
  for (const PagedSequence& sequence : bad) {
    ExpectRefused(Append(sequence), "append_kv");
    ExpectRefused(Attend(sequence), "softmax_attention");
  }
}

TEST_P(ValidateAttentionTest, PoolsAndHeads) {
  const PagedSequence sequence{{0, 2, 0}, table_};
  Tensor half_block(DType::kF32, {2, 2, 32, 3});
  ExpectRefused(backend_->AppendKv(k_.view(), k_.view(), {&sequence, 1},
                                   {half_block.view(), half_block.view()}),
                "wanted [2, 2, 64, 3]");
  Tensor bf16_k(DType::kBf16, {2, 2, 3});
  ExpectRefused(backend_->AppendKv(bf16_k.view(), bf16_k.view(), {&sequence, 1}, Pool()),
                "append_kv: k is bf16, wanted fp32");
  Tensor q(DType::kF32, {2, 3, 3});
  Tensor out(DType::kF32, {2, 3, 3});
  ExpectRefused(backend_->SoftmaxAttention(q.view(), {&sequence, 1}, Pool(), out.view()),
                "3 query heads do not share 2 kv heads evenly");
}

TEST_P(ValidateAttentionTest, Lightning) {
  Tensor qkv(DType::kF32, {2, 2, 3, 4});
  Tensor out(DType::kF32, {2, 2, 4});
  Tensor state(DType::kF32, {2, 4, 4});
  Tensor open(DType::kF32, {2, 32, 4});
  Tensor wrong(DType::kF32, {2, 31, 4});
  const auto run = [&](const SequenceRows& rows, TensorView open_k, TensorView decays) {
    const LightningSequence sequence{rows, state.view(), open_k, open.view()};
    return backend_->LightningAttention(qkv.view(), decays, {&sequence, 1}, out.view());
  };
  ASSERT_OK(run({0, 2, 0}, open.view(), f2_.view()));
  ExpectRefused(run({0, 3, 0}, open.view(), f2_.view()), "do not fit a step of 2 rows");
  ExpectRefused(run({0, 2, -5}, open.view(), f2_.view()), "do not fit");
  ExpectRefused(run({0, 2, 0}, wrong.view(), f2_.view()), "open_k has shape [2, 31, 4]");
  ExpectRefused(run({0, 2, 0}, open.view(), f3_.view()), "decays has shape [3], wanted [2]");
}

constexpr auto kBackendName = [](const testing::TestParamInfo<bool>& info) {
  return std::string(info.param ? "reference" : "cpu");
};
INSTANTIATE_TEST_SUITE_P(Backends, ValidateTest, testing::Bool(), kBackendName);
INSTANTIATE_TEST_SUITE_P(Backends, ValidateAttentionTest, testing::Bool(), kBackendName);

}  // namespace
}  // namespace m1
