// The instruction sets compiled in, and which of them this machine can run.
#pragma once

#include <span>

#include "common/kernels/cpu/kernel_table.h"

namespace m1 {

struct CpuTarget {
  const char* name;
  const KernelTable* kernels;
  // What the processor has and the operating system saves.
  bool (*machine_has)();
};

// Best first; the last is "portable".
std::span<const CpuTarget> CpuTargets();

// Whether the machine has the instructions and they round as the contract says. A log line says
// when they do not.
bool CanRun(const CpuTarget& target);

}  // namespace m1
