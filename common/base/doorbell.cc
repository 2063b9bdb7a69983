#include "common/base/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "absl/time/clock.h"

#include "common/base/affinity.h"

namespace m1 {
namespace {

static_assert(std::atomic<uint32_t>::is_always_lock_free);
static_assert(sizeof(DoorbellWords) == 64);

// Not the private kind: the words may be shared with other processes.
void FutexWait(std::atomic<uint32_t>* word, uint32_t seen, absl::Duration timeout) {
  const timespec time = absl::ToTimespec(timeout);
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, seen, &time, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

bool HasSeveralCores() {
  const absl::StatusOr<std::vector<int>> cores = AllowedCores();
  return cores.ok() && cores->size() > 1;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Doorbell::Ring() {
  words_->count.fetch_add(1, std::memory_order_seq_cst);
  if (words_->waiting.load(std::memory_order_seq_cst) == 0) return;
  // Of several that ring, one pays for the wake.
  if (words_->waiting.exchange(0, std::memory_order_seq_cst) != 0) FutexWake(&words_->count);
}

void Doorbell::Wait(uint32_t seen, absl::Time deadline, absl::Duration spin) {
  static const bool several_cores = HasSeveralCores();
  if (spin > absl::ZeroDuration() && several_cores) {
    const absl::Time until = std::min(deadline, absl::Now() + std::min(spin, kMaxSpin));
    do {
      for (int i = 0; i < 16; ++i) {
        if (count() != seen) return;
        Pause();
      }
    } while (absl::Now() < until);
  }
  const absl::Duration timeout = std::min(deadline - absl::Now(), kMaxSleep);
  if (timeout <= absl::ZeroDuration()) return;
  words_->waiting.store(1, std::memory_order_seq_cst);
  if (words_->count.load(std::memory_order_seq_cst) == seen) {
    FutexWait(&words_->count, seen, timeout);
  }
  words_->waiting.store(0, std::memory_order_relaxed);
}

}  // namespace m1
