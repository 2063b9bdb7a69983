// LightningAttention on every target and with 1 to 3 threads: equal to the plain loops, and the
// same whatever the steps are that a sequence is cut into.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

// A sequence's memory: the open chunk is NaN from row `open_rows` on.
struct Memory {
  Memory(RandomTensors& random, DType act, int64_t heads, int64_t head_dim, int64_t open_rows)
      : state(random.Make(DType::kF32, {heads, head_dim, head_dim})),
        k(random.Make(act, {heads, kLightningChunk, head_dim})),
        v(random.Make(act, k.shape())) {
    for (Tensor* open : {&k, &v}) {
      for (int64_t h = 0; h < heads; ++h) {
        const TensorView rows = open->view()[h].Rows(open_rows, kLightningChunk - open_rows);
        std::memset(rows.data(), 0xff, static_cast<size_t>(rows.num_bytes()));
      }
    }
  }
  Memory(const Memory& other) : state(Copy(other.state)), k(Copy(other.k)), v(Copy(other.v)) {}

  static Tensor Copy(const Tensor& from) {
    Tensor to(from.dtype(), from.shape());
    if (from.shape().num_elements() > 0) {
      std::memcpy(to.view().data(), from.view().data(),
                  static_cast<size_t>(from.view().num_bytes()));
    }
    return to;
  }
  LightningSequence Sequence(const SequenceRows& rows) {
    return {rows, state.view(), k.view(), v.view()};
  }

  Tensor state, k, v;
};

testing::AssertionResult SameMemory(const Memory& got, const Memory& want) {
  if (const auto same = SameBits(got.state.view(), want.state.view()); !same) return same;
  if (const auto same = SameBits(got.k.view(), want.k.view()); !same) return same;
  return SameBits(got.v.view(), want.v.view());
}

Tensor Decays(int64_t heads) {
  Tensor decays(DType::kF32, {heads});
  for (int64_t h = 0; h < heads; ++h) {
    decays.data_as<float>()[h] = h == 0 ? 1.0f : 0.05f / static_cast<float>(h);
  }
  return decays;
}

class LightningKernelsTest : public testing::Test {
 protected:
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();

  // The step of `rows` over copies of `memories`, on the reference and on every backend.
  void ExpectEqual(const Tensor& qkv, std::vector<SequenceRows> rows,
                   const std::vector<Memory>& memories) {
    const Tensor decays = Decays(qkv.shape()[1]);
    const auto run = [&](KernelBackend& backend, std::vector<Memory>& own) {
      std::vector<LightningSequence> sequences;
      for (size_t i = 0; i < rows.size(); ++i) sequences.push_back(own[i].Sequence(rows[i]));
      Tensor out = Poisoned(DType::kF32, {qkv.shape()[0], qkv.shape()[1], qkv.shape()[3]});
      EXPECT_OK(backend.LightningAttention(qkv.view(), decays.view(), sequences, out.view()));
      return out;
    };
    std::vector<Memory> want_memories = memories;
    const Tensor want = run(*reference_, want_memories);
    for (const auto& backend : backends_) {
      std::vector<Memory> got_memories = memories;
      const Tensor got = run(*backend, got_memories);
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
      for (size_t i = 0; i < memories.size(); ++i) {
        ASSERT_TRUE(SameMemory(got_memories[i], want_memories[i])) << backend->name() << " " << i;
      }
    }
  }

  // One step of sequences with these (num_rows, first_position).
  void ExpectStepEqual(RandomTensors& random, DType act, int64_t heads, int64_t head_dim,
                       std::vector<SequenceRows> rows) {
    int64_t num_rows = 0;
    std::vector<Memory> memories;
    for (SequenceRows& sequence : rows) {
      sequence.row_begin = num_rows;
      num_rows += sequence.num_rows;
      memories.emplace_back(random, act, heads, head_dim,
                            sequence.first_position % kLightningChunk);
    }
    ExpectEqual(random.Make(act, {num_rows, heads, 3, head_dim}), std::move(rows), memories);
  }
};

TEST_F(LightningKernelsTest, EqualsThePlainLoopsForAllHeadSizes) {
  RandomTensors random(1);
  for (const int64_t head_dim : {1, 16, 24, 48, 128, 256, 272}) {
    for (const DType act : kActTypes) {
      ExpectStepEqual(random, act, 2, head_dim, {{0, 1, 0}, {0, 0, 3}, {0, 33, 30}});
    }
  }
}

TEST_F(LightningKernelsTest, EqualsThePlainLoopsAtEveryPlaceInTheChunk) {
  RandomTensors random(2);
  for (const DType act : kActTypes) {
    std::vector<SequenceRows> decode;
    for (int64_t position = 0; position < 33; ++position) decode.push_back({0, 1, position});
    ExpectStepEqual(random, act, 3, 32, decode);
    for (const int64_t first : {0, 1, 2, 17, 31}) {
      for (const int64_t rows : {2, 3, 5, 17, 31, 32, 33, 64, 65}) {
        ExpectStepEqual(random, act, 2, 32, {{0, rows, first}});
      }
    }
  }
}

TEST_F(LightningKernelsTest, SubnormalsAndInfinitiesGiveEqualBits) {
  for (const Spice spice : {Spice::kSubnormals, Spice::kInfinities}) {
    RandomTensors random(3, spice);
    for (const DType act : kActTypes) {
      for (int64_t first = 0; first < 32; first += 5) {
        ExpectStepEqual(random, act, 2, 32, {{0, 40, first}, {0, 1, first}});
      }
    }
  }
}

TEST_F(LightningKernelsTest, CuttingASequenceIntoStepsChangesNoBit) {
  constexpr int64_t kRows = 700;
  constexpr int64_t kHeads = 4;
  constexpr int64_t kDim = 64;
  const Tensor decays = Decays(kHeads);
  for (const DType act : kActTypes) {
    RandomTensors random(4);
    const Tensor qkv = random.Make(act, {kRows, kHeads, 3, kDim});
    const Memory start(random, act, kHeads, kDim, 0);
    Memory whole = start;
    Tensor want = Poisoned(DType::kF32, {kRows, kHeads, kDim});
    const LightningSequence all = whole.Sequence({0, kRows, 0});
    ASSERT_OK(backends_[0]->LightningAttention(qkv.view(), decays.view(), {&all, 1}, want.view()));
    for (const auto& backend : backends_) {
      Memory memory = start;
      Tensor got = Poisoned(DType::kF32, want.shape());
      for (int64_t row = 0; row < kRows;) {
        const int64_t longest = random.Integer(0, 2) == 0 ? 90 : 3;
        const int64_t rows = std::min(random.Integer(1, longest), kRows - row);
        const LightningSequence step = memory.Sequence({row, rows, row});
        ASSERT_OK(backend->LightningAttention(qkv.view(), decays.view(), {&step, 1}, got.view()));
        row += rows;
      }
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
      ASSERT_TRUE(SameMemory(memory, whole)) << backend->name();
    }
  }
}

}  // namespace
}  // namespace m1
