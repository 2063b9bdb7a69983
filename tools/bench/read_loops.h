// Loops that read memory as fast as a core can: the candidates for "the machine's read bandwidth".
// Which one wins depends on the machine, so a limit is the best of all.
#pragma once

#include <cstdint>
#include <span>

namespace m1 {

struct ReadLoop {
  const char* name;
  // Reads `num_words` words, a multiple of 1024, from a 64-byte aligned place; the result keeps the
  // reads alive.
  uint64_t (*read)(const uint64_t* words, int64_t num_words);
};

// Those that this machine can run; never empty.
std::span<const ReadLoop> ReadLoops();

}  // namespace m1
