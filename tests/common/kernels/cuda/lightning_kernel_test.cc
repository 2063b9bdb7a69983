// Lightning attention in the simulator: the bits of the plain loops, in prefill and in decode.
#include "common/kernels/cuda/lightning_kernel.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/kernels/backend.h"
#include "common/kernels/cuda/product_geometry.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

static_assert(kChunkRows == kLightningChunk);

constexpr int kHeads = 2;

template <typename Act>
constexpr DType kDType = sizeof(Act) == sizeof(Bf16) ? DType::kBf16 : DType::kF32;

// A sequence's memory in one layer, with the rows of the open chunk that no step has written yet
// poisoned.
struct SequenceMemory {
  Tensor state, open_k, open_v;

  SequenceMemory(RandomTensors& random, DType act, int64_t head_dim)
      : state(random.Make(DType::kF32, {kHeads, head_dim, head_dim})),
        open_k(random.Make(act, {kHeads, kLightningChunk, head_dim})),
        open_v(random.Make(act, {kHeads, kLightningChunk, head_dim})) {}

  LightningSequence sequence(const SequenceRows& rows) {
    return {rows, state.view(), open_k.view(), open_v.view()};
  }
};

struct Step {
  int64_t first_position;
  int64_t num_rows;
};

// The same steps through the plain loops and through the kernel.
template <typename Act, int kRows>
void CheckStep(int64_t head_dim, const std::vector<Step>& steps) {
  constexpr DType kAct = kDType<Act>;
  RandomTensors random(17, Spice::kSubnormals);
  int64_t rows = 1;  // row 0 belongs to nobody
  std::vector<SequenceMemory> want_memory;
  std::vector<SequenceMemory> memory;
  for (size_t i = 0; i < steps.size(); ++i) {
    RandomTensors own(static_cast<uint32_t>(i));
    RandomTensors same(static_cast<uint32_t>(i));
    want_memory.emplace_back(own, kAct, head_dim);
    memory.emplace_back(same, kAct, head_dim);
  }
  std::vector<LightningSequence> sequences;
  std::vector<LightningMemory<Act>> arguments;
  for (size_t i = 0; i < steps.size(); ++i) {
    sequences.push_back(
        want_memory[i].sequence({rows, steps[i].num_rows, steps[i].first_position}));
    arguments.push_back({steps[i].first_position, static_cast<int32_t>(rows),
                         static_cast<int32_t>(steps[i].num_rows), memory[i].state.data_as<float>(),
                         memory[i].open_k.data_as<Act>(), memory[i].open_v.data_as<Act>()});
    rows += steps[i].num_rows;
  }
  const Tensor qkv = random.Make(kAct, {rows, kHeads, 3, head_dim});
  Tensor decays(DType::kF32, {kHeads});
  decays.data_as<float>()[0] = 0.7f;
  decays.data_as<float>()[1] = 0.003f;
  Tensor want = Poisoned(DType::kF32, {rows, kHeads, head_dim});
  ASSERT_OK(CreateReferenceBackend()->LightningAttention(qkv.view(), decays.view(), sequences,
                                                         want.view()));

  Tensor out = Poisoned(DType::kF32, {rows, kHeads, head_dim});
  SimulatedMemory simulated;
  simulated.AddInput(Elements<Act>(qkv));
  simulated.AddInput(Elements<float>(std::as_const(decays)));
  simulated.AddInput(std::span<const LightningMemory<Act>>(arguments));
  simulated.AddOutput(Elements<float>(out));
  for (SequenceMemory& one : memory) {
    simulated.AddOutput(Elements<float>(one.state));
    simulated.AddOutput(Elements<Act>(one.open_k));
    simulated.AddOutput(Elements<Act>(one.open_v));
  }
  const LightningArgs<Act> args{qkv.data_as<Act>(),
                                decays.data_as<float>(),
                                arguments.data(),
                                out.data_as<float>(),
                                static_cast<int32_t>(steps.size()),
                                kHeads,
                                static_cast<int32_t>(head_dim)};
  const LaunchGrid grid = LightningGrid(args.num_sequences, kHeads, args.head_dim, kRows);
  RunClean(grid, simulated,
           [&](SimulatedThread& thread) { LightningKernel<Act, kRows>(thread, args); });
  EXPECT_TRUE(SameBits(out.view(), want.view()));
  const auto width = static_cast<size_t>(kHeads * head_dim);
  ExpectWritten(simulated, std::span<const float>(Elements<float>(out)).subspan(width), 1);
  ExpectWritten(simulated, std::span<const float>(Elements<float>(out)).first(width), 0);
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_TRUE(SameBits(memory[i].state.view(), want_memory[i].state.view()));
    EXPECT_TRUE(SameBits(memory[i].open_k.view(), want_memory[i].open_k.view()));
    EXPECT_TRUE(SameBits(memory[i].open_v.view(), want_memory[i].open_v.view()));
  }
}

template <typename Act>
class LightningKernelTest : public testing::Test {};
using ActTypes = testing::Types<float, Bf16>;
TYPED_TEST_SUITE(LightningKernelTest, ActTypes);

TYPED_TEST(LightningKernelTest, DecodeAtEveryPlaceOfTheChunk) {
  std::vector<Step> steps;
  for (int64_t position = 64; position < 96; ++position) steps.push_back({position, 1});
  CheckStep<TypeParam, 1>(32, steps);
}

TYPED_TEST(LightningKernelTest, DecodeOfTheModelsHeads) {
  CheckStep<TypeParam, 1>(128, {{0, 1}, {31, 1}, {1'000'007, 1}});
}

TYPED_TEST(LightningKernelTest, ChunksOfAPrompt) {
  CheckStep<TypeParam, 8>(64, {{0, 70}, {30, 3}, {33, 31}, {5, 0}, {96, 32}});
}

TYPED_TEST(LightningKernelTest, PromptOfTheModelsHeads) { CheckStep<TypeParam, 8>(128, {{7, 60}}); }

// A step of decode through the kernel for prompts, and the other way round: the same bits.
TYPED_TEST(LightningKernelTest, RowsAtOnceChangeNothing) {
  CheckStep<TypeParam, 8>(32, {{31, 1}, {4, 1}});
  CheckStep<TypeParam, 1>(32, {{20, 15}});
}

TEST(LightningGeometryTest, SharedMemoryFitsEveryArchitecture) {
  for (const int capability : {80, 90, 100}) {
    EXPECT_LE(LightningLayout(kMaxLightningHeadDim, 8).bytes, MaxSharedBytes(capability));
  }
}

TEST(LightningGeometryTest, PartsOfTheLayoutDoNotOverlap) {
  for (int head_dim = 32; head_dim <= kMaxLightningHeadDim; head_dim += 32) {
    const LightningShared at = LightningLayout(head_dim, 8);
    const int row_bytes = LightningRowStride(head_dim) * 4;
    EXPECT_EQ(at.k, 0);
    EXPECT_EQ(at.v, kChunkRows * row_bytes);
    EXPECT_EQ(at.q, at.v + kChunkRows * row_bytes);
    EXPECT_EQ(at.weights, at.q + 8 * row_bytes);
    EXPECT_EQ(at.bytes, at.weights + 8 * kChunkRows * 4);
  }
}

TEST(LightningGeometryTest, StepsWalkTheGridOfChunks) {
  for (int64_t position = 0; position < 70; ++position) {
    for (int left = 1; left < 70; ++left) {
      const ChunkRows rows = RowsInChunk(position, left);
      EXPECT_EQ(rows.first, position % 32);
      EXPECT_GE(rows.count, 1);
      EXPECT_LE(rows.count, left);
      EXPECT_LE(rows.first + rows.count, 32);
      EXPECT_EQ(rows.fills, rows.first + rows.count == 32);
      EXPECT_TRUE(rows.fills || rows.count == left);
    }
  }
}

}  // namespace
}  // namespace m1::cuda
