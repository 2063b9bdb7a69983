#include "common/exchange/byte_chunks.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace m1 {

ByteChunks::ByteChunks(std::vector<Chunk> chunks) : chunks_(std::move(chunks)) {
  for (const Chunk& chunk : chunks_) remaining_ += static_cast<int64_t>(chunk.size());
}

bool ByteChunks::Take(std::byte* out, int64_t size) {
  if (size < 0 || size > remaining_) return false;
  remaining_ -= size;
  size_t left = static_cast<size_t>(size);
  while (left > 0) {
    const Chunk& chunk = chunks_[index_];
    const size_t count = std::min(left, chunk.size() - offset_);
    if (count > 0 && out != nullptr) {
      std::memcpy(out, chunk.data() + offset_, count);
      out += count;
    }
    left -= count;
    offset_ += count;
    if (offset_ == chunk.size()) {
      ++index_;
      offset_ = 0;
    }
  }
  return true;
}

}  // namespace m1
