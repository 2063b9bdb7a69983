// The memories of the GPU's simulator (cuda_simulator.h), with what is checked about each access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace m1::cuda {

// What kernels may touch, with a count of the writes to each byte.
class SimulatedMemory {
 public:
  template <typename T>
  void AddInput(std::span<const T> data) {
    Add(data.data(), data.size_bytes(), false);
  }
  template <typename T>
  void AddOutput(std::span<T> data) {
    Add(data.data(), data.size_bytes(), true);
  }

  // Memory that may be read and written, without counts; it overlaps no other.
  void AddDevice(const void* data, size_t bytes);
  void RemoveDevice(const void* data);

  // Empty where all of it is inside one region (that may be written).
  std::string CheckRead(const void* at, size_t bytes) const;
  std::string NoteWrite(const void* at, size_t bytes);
  // The number of writes to the element; -1 where its bytes differ or it belongs to no output.
  int CountWrites(const void* at, size_t bytes) const;

 private:
  struct Region {
    uintptr_t begin;
    uintptr_t end;
    bool writable;
    std::vector<uint8_t> writes;  // for each byte
  };

  void Add(const void* data, size_t bytes, bool writable);
  const Region* Find(const void* at, size_t bytes) const;

  bool IsDevice(const void* at, size_t bytes) const;

  std::vector<Region> regions_;
  std::map<uintptr_t, uintptr_t> device_;  // begin, end
};

// An access of one thread to shared memory; of 0 bytes where its lane stands idle.
struct SharedAccess {
  int offset;
  int bytes;
};

// The accesses of a warp's lanes, the i-th ones as one instruction: how many turns of the memory
// they take beyond those that their bytes need.
int64_t CountBankConflicts(std::span<const std::vector<SharedAccess>* const> lanes);

// A block's shared memory. Calls return what is wrong with the access, or nothing.
class SharedMemory {
 public:
  explicit SharedMemory(int bytes)
      : bytes_(static_cast<size_t>(bytes)), marks_(static_cast<size_t>(bytes)) {}

  std::string Read(int thread, const SharedAccess& access, void* value);
  std::string Write(int thread, const SharedAccess& access, const void* value);
  // The bytes are about to change, at an unknown time.
  std::string Spoil(int thread, const SharedAccess& access);
  // All threads have met: accesses before and after do not race.
  void PassBarrier() { ++epoch_; }

 private:
  // Who touched a byte since the last barrier, and whether it holds anything.
  struct Mark {
    int epoch = -1;
    int writer = -1;
    int reader = -1;  // kMany: several
    bool written = false;
  };
  static constexpr int kMany = -2;

  std::string CheckPlace(const SharedAccess& access) const;
  Mark& MarkAt(int byte);

  std::vector<unsigned char> bytes_;
  std::vector<Mark> marks_;
  int epoch_ = 0;
};

}  // namespace m1::cuda
