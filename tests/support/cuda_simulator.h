// Runs the kernel bodies of common/kernels/cuda on the CPU, a thread of a block each on a stack of
// its own, and finds what a GPU would let pass: accesses outside the given memory, shared memory
// read before it is written, races between two barriers, copies used before they arrived, lanes or
// threads that miss one another, bank conflicts. Plain C++: no gtest, no abseil.
//
// Not the same as on a GPU: how mma.sync adds the 17 terms of an element (MmaElement below),
// timing, and everything that SimulatedThread does not offer.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "common/kernels/cuda/portable.h"
#include "tests/support/simulated_memory.h"

namespace m1::cuda {

// d of one element of an mma: the products and d, exact, ascending, in double, rounded once.
float MmaElement(float d, std::span<const Bf16, 16> a, std::span<const Bf16, 16> b);

struct LaunchShape {
  BlockIndex grid{1, 1, 1};
  int threads = 32;
  int shared_bytes = 0;
};

class SimulatedThread;

struct SimulationReport {
  std::vector<std::string> errors;  // the first few
  int64_t bank_conflicts = 0;       // turns of the shared memory beyond what the accesses need
  int64_t mmas = 0;                 // of warps
};

// Runs the blocks one after another, with subnormals as the caller's thread has them.
SimulationReport Simulate(const LaunchShape& shape, SimulatedMemory& memory,
                          const std::function<void(SimulatedThread&)>& kernel);

// What a thread waits for.
struct SimulatedRequest {
  enum class Kind {
    kNone,
    kBarrier,
    kMatrices,
    kMatricesTransposed,
    kTranspose,
    kMma,
    kMmaInt8,
    kShuffle
  };
  Kind kind = Kind::kNone;
  int offset = 0;                 // of ldmatrix
  int lane = 0;                   // a shuffle's source
  uint32_t word = 0;              // in and out of shuffles and movmatrix
  Words4 words{};                 // out of ldmatrix; operand A
  std::array<uint32_t, 2> b{};    // operand B
  float* d = nullptr;             // [4]
  std::array<int32_t, 4> sums{};  // in and out of MmaInt8
};

class SimulatedBlock;

class SimulatedThread {
 public:
  SimulatedThread(SimulatedBlock* owner, int index, BlockIndex block)
      : owner_(owner), index_(index), block_(block) {}

  int index() const { return index_; }
  int lane() const { return index_ % kWarpLanes; }
  int warp() const { return index_ / kWarpLanes; }
  BlockIndex block() const { return block_; }

  template <typename T>
  T Load(const T* from) {
    T value{};
    if (MayLoad(from, sizeof(T), alignof(T))) std::memcpy(&value, from, sizeof(T));
    return value;
  }
  template <typename T>
  void Store(T* to, std::type_identity_t<T> value) {
    if (MayStore(to, sizeof(T), alignof(T))) std::memcpy(to, &value, sizeof(T));
  }
  template <typename T>
  T LoadShared(int offset) {
    T value{};
    ReadShared(offset, &value, sizeof(T));
    return value;
  }
  template <typename T>
  void StoreShared(int offset, T value) {
    WriteShared(offset, &value, sizeof(T));
  }

  template <typename T>
  void StoreSharedIf(bool condition, int offset, T value) {
    if (condition) {
      StoreShared(offset, value);
    } else {
      accesses_.push_back({offset, 0});  // an idle lane in the others' instruction
    }
  }

  void CopyAsync16(int offset, const void* from, bool valid) { CopyAsync(offset, from, 16, valid); }
  void CopyAsync8(int offset, const void* from, bool valid) { CopyAsync(offset, from, 8, valid); }
  void CommitCopies() { committed_.push_back(copies_.size()); }
  template <int kPending>
  void WaitCopies() {
    FinishCopies(kPending);
  }
  void Barrier();

  Words4 LoadMatrices(int offset);
  Words4 LoadMatricesTransposed(int offset);
  uint32_t TransposeMatrix(uint32_t word);
  void Mma(float (&d)[4], const Words4& a, uint32_t b0, uint32_t b1);
  void MmaInt8(int32_t (&d)[4], const int32_t (&c)[4], const Words4& a, uint32_t b0, uint32_t b1);

  template <typename T>
  T Shuffle(T value, int from_lane) {
    static_assert(sizeof(T) == sizeof(uint32_t));
    return std::bit_cast<T>(ShuffleWord(std::bit_cast<uint32_t>(value), from_lane));
  }
  template <typename T>
  T ShuffleXor(T value, int mask) {
    return Shuffle(value, lane() ^ mask);
  }

 private:
  friend class SimulatedBlock;

  struct Copy {
    int offset;
    int size;
    std::array<unsigned char, 16> bytes;
  };

  bool MayLoad(const void* from, size_t bytes, size_t alignment);
  bool MayStore(const void* to, size_t bytes, size_t alignment);
  void ReadShared(int offset, void* value, int bytes);
  void WriteShared(int offset, const void* value, int bytes);
  void CopyAsync(int offset, const void* from, int bytes, bool valid);
  void FinishCopies(size_t pending);
  uint32_t ShuffleWord(uint32_t word, int from_lane);
  void Wait(SimulatedRequest& request);

  SimulatedBlock* const owner_;
  const int index_;
  const BlockIndex block_;
  std::vector<Copy> copies_;
  std::vector<size_t> committed_;       // copies before the end of each group
  size_t finished_ = 0;                 // copies that have arrived
  std::vector<SharedAccess> accesses_;  // to shared memory, since the warp last met
  SimulatedRequest* waiting_ = nullptr;
  bool done_ = false;
};

}  // namespace m1::cuda
