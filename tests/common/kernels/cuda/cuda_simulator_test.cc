// The simulator finds the faults that it is there for, and its matrix instructions do what the PTX
// manual says.
#include "tests/support/cuda_simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace m1::cuda {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Kernel = std::function<void(SimulatedThread&)>;

SimulationReport RunBlock(int threads, const Kernel& kernel) {
  SimulatedMemory memory;
  return Simulate({.threads = threads, .shared_bytes = 4096}, memory, kernel);
}

void ExpectFault(int threads, const std::string& what, const Kernel& kernel) {
  const SimulationReport report = RunBlock(threads, kernel);
  ASSERT_FALSE(report.errors.empty()) << "not found: " << what;
  EXPECT_THAT(report.errors[0], HasSubstr(what));
}

TEST(CudaSimulatorTest, RunsEveryThreadOfEveryBlock) {
  std::vector<int> out(2 * 3 * 64, -1);
  SimulatedMemory memory;
  memory.AddOutput(std::span<int>(out));
  const SimulationReport report =
      Simulate({.grid = {2, 3, 1}, .threads = 64}, memory, [&](SimulatedThread& thread) {
        const int at = (thread.block().y * 2 + thread.block().x) * 64 + thread.index();
        thread.Store(&out[static_cast<size_t>(at)], at);
      });
  EXPECT_THAT(report.errors, IsEmpty());
  std::vector<int> want(out.size());
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(out, want);
  EXPECT_EQ(memory.CountWrites(&out[100], sizeof(int)), 1);
}

TEST(CudaSimulatorTest, FindsAccessesOutsideOfTheGivenMemory) {
  std::vector<float> data(4);
  SimulatedMemory memory;
  memory.AddInput(std::span<const float>(data));
  const SimulationReport report =
      Simulate({.threads = 32, .shared_bytes = 64}, memory, [&](SimulatedThread& thread) {
        if (thread.index() == 0) thread.Load(data.data() + 4);
        if (thread.index() == 1) thread.Store(data.data(), 1.0f);
        if (thread.index() == 2) thread.StoreShared(64, 1.0f);
        if (thread.index() == 3) thread.StoreShared(2, 1.0f);
      });
  EXPECT_THAT(
      report.errors,
      ElementsAre(HasSubstr("global read outside"), HasSubstr("global write outside"),
                  HasSubstr("outside of the block's bytes"), HasSubstr("without its alignment")));
}

TEST(CudaSimulatorTest, CountsRepeatedWrites) {
  std::vector<float> out(2);
  SimulatedMemory memory;
  memory.AddOutput(std::span<float>(out));
  Simulate({.threads = 32}, memory, [&](SimulatedThread& thread) {
    if (thread.index() < 2) thread.Store(&out[0], 1.0f);
  });
  EXPECT_EQ(memory.CountWrites(&out[0], sizeof(float)), 2);
  EXPECT_EQ(memory.CountWrites(&out[1], sizeof(float)), 0);
}

TEST(CudaSimulatorTest, FindsReadsOfWhatNobodyWrote) {
  ExpectFault(32, "before it was written",
              [](SimulatedThread& thread) { thread.LoadShared<float>(4 * thread.index()); });
}

TEST(CudaSimulatorTest, FindsAMissingBarrierBetweenWriteAndRead) {
  ExpectFault(32, "read after another thread's write", [](SimulatedThread& thread) {
    thread.StoreShared(4 * thread.index(), 1.0f);
    thread.ShuffleXor(0.0f, 1);
    thread.LoadShared<float>(4 * (thread.index() ^ 1));
  });
}

TEST(CudaSimulatorTest, FindsAMissingBarrierBetweenReadAndWrite) {
  ExpectFault(32, "written after another thread's access", [](SimulatedThread& thread) {
    thread.StoreShared(4 * thread.index(), 1.0f);
    thread.Barrier();
    thread.LoadShared<float>(4 * (thread.index() ^ 1));
    thread.ShuffleXor(0.0f, 1);
    thread.StoreShared(4 * thread.index(), 2.0f);
  });
}

TEST(CudaSimulatorTest, BarriersSeparateAccesses) {
  const SimulationReport report = RunBlock(64, [](SimulatedThread& thread) {
    thread.StoreShared(4 * thread.index(), 1.0f);
    thread.Barrier();
    thread.LoadShared<float>(4 * (63 - thread.index()));
    thread.Barrier();
    thread.StoreShared(4 * thread.index(), 2.0f);
  });
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_EQ(report.bank_conflicts, 0);
}

// A copy is there only after its own wait, and for others only after a barrier.
void CopyAndRead(SimulatedThread& thread, const float* from, bool wait, bool barrier) {
  if (thread.index() < 8) thread.CopyAsync16(16 * thread.index(), from, true);
  thread.CommitCopies();
  if (wait) thread.WaitCopies<0>();
  if (barrier) thread.Barrier();
  thread.LoadShared<float>(4 * thread.index());
  if (!wait) thread.WaitCopies<0>();
}

TEST(CudaSimulatorTest, FindsCopiesUsedTooEarly) {
  alignas(16) static const float data[4] = {1, 2, 3, 4};
  for (const bool wait : {false, true}) {
    for (const bool barrier : {false, true}) {
      SimulatedMemory memory;
      memory.AddInput(std::span<const float>(data));
      const SimulationReport report =
          Simulate({.threads = 32, .shared_bytes = 128}, memory,
                   [&](SimulatedThread& thread) { CopyAndRead(thread, data, wait, barrier); });
      EXPECT_EQ(report.errors.empty(), wait && barrier) << wait << barrier;
    }
  }
}

TEST(CudaSimulatorTest, FindsCopiesLeftUnderWay) {
  alignas(16) static const float data[4] = {1, 2, 3, 4};
  SimulatedMemory memory;
  memory.AddInput(std::span<const float>(data));
  const SimulationReport report =
      Simulate({.threads = 32, .shared_bytes = 512}, memory, [&](SimulatedThread& thread) {
        thread.CopyAsync16(16 * thread.index(), data, true);
        thread.CommitCopies();
      });
  ASSERT_FALSE(report.errors.empty());
  EXPECT_THAT(report.errors[0], HasSubstr("copies under way"));
}

TEST(CudaSimulatorTest, FindsThreadsThatMissABarrier) {
  ExpectFault(64, "not all of them meet", [](SimulatedThread& thread) {
    if (thread.index() < 40) thread.Barrier();
  });
}

TEST(CudaSimulatorTest, FindsLanesThatMissOneAnother) {
  ExpectFault(32, "not all of them meet", [](SimulatedThread& thread) {
    if (thread.index() == 5) return;
    thread.ShuffleXor(1, 1);
  });
}

TEST(CudaSimulatorTest, CountsBankConflicts) {
  const auto conflicts = [](int stride) {
    return RunBlock(32,
                    [stride](SimulatedThread& thread) {
                      thread.StoreShared(stride * thread.index(), 1.0f);
                      thread.Barrier();
                    })
        .bank_conflicts;
  };
  EXPECT_EQ(conflicts(4), 0);
  EXPECT_EQ(conflicts(8), 1);
  EXPECT_EQ(conflicts(128), 31);
}

TEST(CudaSimulatorTest, ReadsOfOneWordAreNoConflict) {
  const SimulationReport report = RunBlock(32, [](SimulatedThread& thread) {
    if (thread.index() == 0) thread.StoreShared(0, 1.0f);
    thread.Barrier();
    thread.LoadShared<float>(0);
    thread.Barrier();
  });
  EXPECT_EQ(report.bank_conflicts, 0);
}

TEST(CudaSimulatorTest, ShufflesExchangeLanes) {
  std::vector<int> out(32);
  SimulatedMemory memory;
  memory.AddOutput(std::span<int>(out));
  Simulate({.threads = 32}, memory, [&](SimulatedThread& thread) {
    const int value = thread.ShuffleXor(thread.lane(), 3) + 100 * thread.Shuffle(thread.lane(), 7);
    thread.Store(&out[static_cast<size_t>(thread.lane())], value);
  });
  EXPECT_EQ(out[0], 703);
  EXPECT_EQ(out[5], 706);
}

// a[m, k] = 16 m + k and b[k, n] = [k == n] or [k == n + 8], written to shared memory row by row
// and loaded as the product kernel does it: d[m, n] = a[m, n] + a[m, n + 8].
void MultiplyByUnit(SimulatedThread& thread, std::span<float> out) {
  const int lane = thread.lane();
  for (int at = lane; at < 16 * 16; at += kWarpLanes) {
    thread.StoreShared(2 * at, FloatToBf16(static_cast<float>(at)));
  }
  for (int at = lane; at < 8 * 16; at += kWarpLanes) {
    const bool one = at % 16 % 8 == at / 16;
    thread.StoreShared(512 + 2 * at, FloatToBf16(one ? 1.0f : 0.0f));
  }
  thread.Barrier();
  const Words4 a = thread.LoadMatrices(32 * (lane % 16) + 16 * (lane / 16));
  const Words4 b = thread.LoadMatrices(512 + 32 * (lane % 8) + 16 * (lane / 8 % 2));
  float d[4] = {};
  thread.Mma(d, a, b.word[0], b.word[1]);
  for (int i = 0; i < 4; ++i) {
    const int at = (lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2;
    thread.Store(&out[static_cast<size_t>(at)], d[i]);
  }
}

TEST(CudaSimulatorTest, MultipliesMatrices) {
  std::vector<float> out(16 * 8);
  SimulatedMemory memory;
  memory.AddOutput(std::span<float>(out));
  const SimulationReport report =
      Simulate({.threads = 32, .shared_bytes = 1024}, memory,
               [&](SimulatedThread& thread) { MultiplyByUnit(thread, out); });
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_EQ(report.mmas, 1);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      EXPECT_EQ(out[static_cast<size_t>(m * 8 + n)], static_cast<float>(2 * (16 * m + n) + 8));
    }
  }
}

// What the PTX manual says of mma.m16n8k32 with .s8 ("Matrix Fragments for mma.m16n8k32"), written
// down anew: element i of what a lane holds, with groupID = lane >> 2, threadID_in_group = lane
// % 4.
struct Place {
  int row;
  int column;
};
Place PlaceInA(int lane, int i) {
  const int group = lane >> 2;
  const bool own_row = (0 <= i && i < 4) || (8 <= i && i < 12);
  const int column = lane % 4 * 4 + (i & 3);
  return {own_row ? group : group + 8, i < 8 ? column : column + 16};
}
Place PlaceInB(int lane, int i) {
  const int row = lane % 4 * 4 + (i & 3);
  return {i < 4 ? row : row + 16, lane >> 2};
}
Place PlaceInD(int lane, int i) {
  const int group = lane >> 2;
  return {i < 2 ? group : group + 8, lane % 4 * 2 + (i & 1)};
}

// Numbers of both signs, -128 and 127 among them.
int8_t ElementOfA(int m, int k) { return static_cast<int8_t>(m * 53 + k * 29); }
int8_t ElementOfB(int k, int n) { return static_cast<int8_t>(k * 71 + n * 37 - 128); }

uint32_t WithByte(uint32_t word, int index, int8_t value) {
  return word | (uint32_t{static_cast<uint8_t>(value)} << (8 * index));
}

void MultiplyIntegers(SimulatedThread& thread, std::span<int32_t> out) {
  const int lane = thread.lane();
  Words4 a{};
  uint32_t b[2] = {};
  for (int i = 0; i < 16; ++i) {
    const Place at = PlaceInA(lane, i);
    a.word[i / 4] = WithByte(a.word[i / 4], i % 4, ElementOfA(at.row, at.column));
  }
  for (int i = 0; i < 8; ++i) {
    const Place at = PlaceInB(lane, i);
    b[i / 4] = WithByte(b[i / 4], i % 4, ElementOfB(at.row, at.column));
  }
  const int32_t start[4] = {1000, 1000, 1000, 1000};
  int32_t d[4] = {};
  thread.MmaInt8(d, start, a, b[0], b[1]);
  thread.MmaInt8(d, d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) {
    const Place at = PlaceInD(lane, i);
    const int index = at.row * 8 + at.column;
    thread.Store(&out[static_cast<size_t>(index)], d[i]);
  }
}

TEST(CudaSimulatorTest, MultipliesMatricesOfIntegers) {
  std::vector<int32_t> out(16 * 8);
  SimulatedMemory memory;
  memory.AddOutput(std::span<int32_t>(out));
  const SimulationReport report = Simulate(
      {.threads = 32}, memory, [&](SimulatedThread& thread) { MultiplyIntegers(thread, out); });
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_EQ(report.mmas, 2);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += ElementOfA(m, k) * ElementOfB(k, n);
      const int index = m * 8 + n;
      EXPECT_EQ(out[static_cast<size_t>(index)], 1000 + 2 * sum) << m << " " << n;
    }
  }
}

TEST(CudaSimulatorTest, CopiesOfEightBytesArriveWhole) {
  alignas(16) static const float data[4] = {1, 2, 3, 4};
  std::vector<float> out(4);
  SimulatedMemory memory;
  memory.AddInput(std::span<const float>(data));
  memory.AddOutput(std::span<float>(out));
  const SimulationReport report =
      Simulate({.threads = 32, .shared_bytes = 16}, memory, [&](SimulatedThread& thread) {
        if (thread.index() < 2) {
          thread.CopyAsync8(8 * thread.index(), data + 2, thread.index() == 0);
        }
        thread.CommitCopies();
        thread.WaitCopies<0>();
        thread.Barrier();
        if (thread.index() >= 4) return;
        thread.Store(&out[static_cast<size_t>(thread.index())],
                     thread.LoadShared<float>(4 * thread.index()));
      });
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_THAT(out, ElementsAre(3.0f, 4.0f, 0.0f, 0.0f));
}

// Lane 4 r + c holds elements (r, 2 c) and (r, 2 c + 1), element (i, j) being 8 i + j.
TEST(CudaSimulatorTest, TransposesMatrices) {
  std::vector<uint32_t> out(32);
  SimulatedMemory memory;
  memory.AddOutput(std::span<uint32_t>(out));
  Simulate({.threads = 32}, memory, [&](SimulatedThread& thread) {
    const auto low = static_cast<uint32_t>(2 * thread.lane());
    const uint32_t word = thread.TransposeMatrix(low | ((low + 1) << 16));
    thread.Store(&out[static_cast<size_t>(thread.lane())], word);
  });
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t row = lane / 4;
    const uint32_t column = 2 * (lane % 4);
    EXPECT_EQ(out[lane] & 0xffff, 8 * column + row);
    EXPECT_EQ(out[lane] >> 16, 8 * (column + 1) + row);
  }
}

}  // namespace
}  // namespace m1::cuda
