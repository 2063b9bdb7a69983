#include "tests/support/simulated_memory.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

namespace m1::cuda {
namespace {

constexpr int kBankBytes = 4;
constexpr int kBanks = 32;

// Accesses that the memory serves together.
int64_t ExtraTurns(std::span<const SharedAccess> phase) {
  std::vector<int> words;
  for (const SharedAccess& access : phase) {
    for (int at = access.offset; at < access.offset + access.bytes; at += kBankBytes) {
      words.push_back(at / kBankBytes);
    }
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  std::array<int64_t, kBanks> turns{};
  for (const int word : words) ++turns[static_cast<size_t>(word % kBanks)];
  return std::max<int64_t>(*std::max_element(turns.begin(), turns.end()) - 1, 0);
}

}  // namespace

void SimulatedMemory::Add(const void* data, size_t bytes, bool writable) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  regions_.push_back(
      {begin, begin + bytes, writable, std::vector<uint8_t>(writable ? bytes : size_t{0})});
}

const SimulatedMemory::Region* SimulatedMemory::Find(const void* at, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(at);
  for (const Region& region : regions_) {
    if (region.begin <= begin && begin + bytes <= region.end) return &region;
  }
  return nullptr;
}

void SimulatedMemory::AddDevice(const void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  device_[begin] = begin + bytes;
}

void SimulatedMemory::RemoveDevice(const void* data) {
  device_.erase(reinterpret_cast<uintptr_t>(data));
}

bool SimulatedMemory::IsDevice(const void* at, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(at);
  const auto next = device_.upper_bound(begin);
  return next != device_.begin() && begin + bytes <= std::prev(next)->second;
}

std::string SimulatedMemory::CheckRead(const void* at, size_t bytes) const {
  if (IsDevice(at, bytes)) return "";
  return Find(at, bytes) == nullptr ? "global read outside of the given memory" : "";
}

std::string SimulatedMemory::NoteWrite(const void* at, size_t bytes) {
  if (IsDevice(at, bytes)) return "";
  const Region* found = Find(at, bytes);
  if (found == nullptr || !found->writable) return "global write outside of the outputs";
  Region& region = regions_[static_cast<size_t>(found - regions_.data())];
  const size_t first = reinterpret_cast<uintptr_t>(at) - region.begin;
  for (size_t i = first; i < first + bytes; ++i) {
    if (region.writes[i] < 255) ++region.writes[i];
  }
  return "";
}

int SimulatedMemory::CountWrites(const void* at, size_t bytes) const {
  const Region* region = Find(at, bytes);
  if (region == nullptr || !region->writable || bytes == 0) return -1;
  const size_t first = reinterpret_cast<uintptr_t>(at) - region->begin;
  const uint8_t count = region->writes[first];
  for (size_t i = first; i < first + bytes; ++i) {
    if (region->writes[i] != count) return -1;
  }
  return count;
}

// The memory serves phases of 128 bytes.
int64_t CountBankConflicts(std::span<const std::vector<SharedAccess>* const> lanes) {
  size_t count = 0;
  for (const auto* lane : lanes) count = std::max(count, lane->size());
  int64_t conflicts = 0;
  for (size_t i = 0; i < count; ++i) {
    std::vector<SharedAccess> phase;
    int bytes = 0;
    for (const auto* lane : lanes) {
      if (i >= lane->size() || (*lane)[i].bytes == 0) continue;
      const SharedAccess access = (*lane)[i];
      if (bytes + std::max(access.bytes, kBankBytes) > kBanks * kBankBytes) {
        conflicts += ExtraTurns(phase);
        phase.clear();
        bytes = 0;
      }
      phase.push_back(access);
      bytes += std::max(access.bytes, kBankBytes);
    }
    conflicts += ExtraTurns(phase);
  }
  return conflicts;
}

std::string SharedMemory::CheckPlace(const SharedAccess& access) const {
  if (access.offset < 0 || access.bytes <= 0 ||
      static_cast<size_t>(access.offset) + static_cast<size_t>(access.bytes) > bytes_.size()) {
    return "shared memory access outside of the block's bytes";
  }
  return access.offset % access.bytes == 0 ? "" : "shared memory access without its alignment";
}

SharedMemory::Mark& SharedMemory::MarkAt(int byte) {
  Mark& mark = marks_[static_cast<size_t>(byte)];
  if (mark.epoch != epoch_) mark = {epoch_, -1, -1, mark.written};
  return mark;
}

std::string SharedMemory::Read(int thread, const SharedAccess& access, void* value) {
  std::string error = CheckPlace(access);
  if (!error.empty()) return error;
  bool unwritten = false;
  bool race = false;
  for (int i = access.offset; i < access.offset + access.bytes; ++i) {
    Mark& mark = MarkAt(i);
    unwritten |= !mark.written;
    race |= mark.writer != -1 && mark.writer != thread;
    mark.reader = mark.reader == -1 || mark.reader == thread ? thread : kMany;
  }
  std::memcpy(value, &bytes_[static_cast<size_t>(access.offset)],
              static_cast<size_t>(access.bytes));
  if (race) return "shared memory read after another thread's write without a barrier";
  return unwritten ? "shared memory read before it was written, or while a copy is under way" : "";
}

std::string SharedMemory::Write(int thread, const SharedAccess& access, const void* value) {
  std::string error = CheckPlace(access);
  if (!error.empty()) return error;
  error = Spoil(thread, access);
  for (int i = access.offset; i < access.offset + access.bytes; ++i) MarkAt(i).written = true;
  std::memcpy(&bytes_[static_cast<size_t>(access.offset)], value,
              static_cast<size_t>(access.bytes));
  return error;
}

std::string SharedMemory::Spoil(int thread, const SharedAccess& access) {
  std::string error = CheckPlace(access);
  if (!error.empty()) return error;
  bool race = false;
  for (int i = access.offset; i < access.offset + access.bytes; ++i) {
    Mark& mark = MarkAt(i);
    race |= mark.writer != -1 && mark.writer != thread;
    race |= mark.reader != -1 && mark.reader != thread;
    mark.writer = thread;
    mark.written = false;
  }
  return race ? "shared memory written after another thread's access without a barrier" : "";
}

}  // namespace m1::cuda
