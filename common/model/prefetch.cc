#include "common/model/prefetch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older kernels answer EINVAL
#endif

namespace m1 {
namespace {

constexpr int64_t kPieceBytes = int64_t{8} << 20;
// One call to the kernel starts at most about this much reading, whatever it is asked for.
constexpr uintptr_t kAdviceBytes = uintptr_t{128} << 10;

struct PageRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};

PageRange PagesOf(const ConstTensorView& view, int64_t offset, int64_t size) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(view.data()) + static_cast<uintptr_t>(offset);
  const uintptr_t end = begin + static_cast<uintptr_t>(size);
  return {begin / page * page, (end + page - 1) / page * page};
}

// Starts reading in the background. The mapping is advised MADV_RANDOM, so that a mere touch would
// fetch one page at a time.
void StartReading(PageRange pages) {
  for (uintptr_t at = pages.begin; at < pages.end; at += kAdviceBytes) {
    madvise(reinterpret_cast<void*>(at), std::min(kAdviceBytes, pages.end - at), MADV_WILLNEED);
  }
}

absl::Status MakeResident(PageRange pages) {
  const size_t size = pages.end - pages.begin;
  if (madvise(reinterpret_cast<void*>(pages.begin), size, MADV_POPULATE_READ) == 0) {
    return absl::OkStatus();
  }
  if (errno != EINVAL) {
    return absl::DataLossError(absl::StrCat("weights cannot be read: ", std::strerror(errno)));
  }
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (uintptr_t at = pages.begin; at < pages.end; at += page) {
    static_cast<void>(*reinterpret_cast<const volatile std::byte*>(at));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PrefetchPages(std::span<const ConstTensorView> views,
                           const PrefetchProgress& progress) {
  struct Piece {
    PageRange pages;
    int64_t size = 0;
  };
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (const ConstTensorView& view : views) {
    total += view.num_bytes();
    for (int64_t at = 0; at < view.num_bytes(); at += kPieceBytes) {
      const int64_t size = std::min(kPieceBytes, view.num_bytes() - at);
      pieces.push_back({PagesOf(view, at, size), size});
    }
  }
  ParallelLoad job(total, progress);
  return job.Run(pieces.size(), [&](size_t i) -> absl::StatusOr<int64_t> {
    StartReading(pieces[i].pages);
    M1_RETURN_IF_ERROR(MakeResident(pieces[i].pages));
    return pieces[i].size;
  });
}

}  // namespace m1
