// Reads bytes that lie in several pieces, as transports deliver them, without joining them first.
// Borrows the pieces. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace m1 {

class ByteChunks {
 public:
  using Chunk = std::span<const std::byte>;

  explicit ByteChunks(std::vector<Chunk> chunks);
  explicit ByteChunks(Chunk chunk) : ByteChunks(std::vector<Chunk>{chunk}) {}

  int64_t remaining() const { return remaining_; }
  // Copies the next `size` bytes and moves past them. False, and nothing moves, when fewer remain.
  bool Read(void* out, int64_t size) { return Take(static_cast<std::byte*>(out), size); }
  // Moves past the next `size` bytes, as Read.
  bool Skip(int64_t size) { return Take(nullptr, size); }

 private:
  // Copies unless `out` is null.
  bool Take(std::byte* out, int64_t size);

  std::vector<Chunk> chunks_;
  size_t index_ = 0;   // chunk that holds the next byte
  size_t offset_ = 0;  // of the next byte in it
  int64_t remaining_ = 0;
};

}  // namespace m1
