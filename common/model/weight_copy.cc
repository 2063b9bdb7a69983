#include "common/model/weight_copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr uintptr_t kLargePageBytes = uintptr_t{2} << 20;
constexpr uintptr_t kStepBytes = uintptr_t{32} << 20;

struct PageRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  size_t size() const { return end - begin; }
};

// In the order of memory; those that touch become one, so that large pages fit in.
std::vector<PageRange> PageRangesOf(std::span<const ConstTensorView> views) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  std::vector<PageRange> ranges;
  for (const ConstTensorView& view : views) {
    const auto begin = reinterpret_cast<uintptr_t>(view.data());
    const uintptr_t end = begin + static_cast<uintptr_t>(view.num_bytes());
    if (end > begin) ranges.push_back({begin / page * page, (end + page - 1) / page * page});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.begin < b.begin; });
  std::vector<PageRange> merged;
  for (const PageRange& range : ranges) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  return merged;
}

absl::Status NoMemory(size_t size) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no memory for a copy of ", size, " bytes of weights: ", std::strerror(errno)));
}

// Private memory as large as a range, and as far from a large page's border, until it is moved to
// where the range is.
class Replacement {
 public:
  explicit Replacement(const PageRange& range) : range_(range) {
    reserved_bytes_ = range.size() + kLargePageBytes;
    reserved_ =
        mmap(nullptr, reserved_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved_ == MAP_FAILED) return;
    const auto base = reinterpret_cast<uintptr_t>(reserved_);
    data_ = base + (range.begin - base) % kLargePageBytes;
    madvise(data(), range.size(), MADV_HUGEPAGE);  // advice: a system without them does as well
  }
  // What was moved away may be somebody else's by now.
  ~Replacement() {
    if (reserved_ == MAP_FAILED) return;
    const auto base = reinterpret_cast<uintptr_t>(reserved_);
    if (!is_moved_) {
      munmap(reserved_, reserved_bytes_);
      return;
    }
    const uintptr_t end = data_ + range_.size();
    if (data_ > base) munmap(reserved_, data_ - base);
    if (base + reserved_bytes_ > end) {
      munmap(reinterpret_cast<void*>(end), base + reserved_bytes_ - end);
    }
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  bool is_valid() const { return reserved_ != MAP_FAILED; }
  void* data() const { return reinterpret_cast<void*>(data_); }

  // Whoever reads the range sees the same bytes before and after.
  absl::Status MoveIntoPlace() {
    if (mprotect(data(), range_.size(), PROT_READ) != 0 ||
        mremap(data(), range_.size(), range_.size(), MREMAP_MAYMOVE | MREMAP_FIXED,
               reinterpret_cast<void*>(range_.begin)) == MAP_FAILED) {
      return NoMemory(range_.size());
    }
    is_moved_ = true;
    return absl::OkStatus();
  }

 private:
  const PageRange range_;
  size_t reserved_bytes_ = 0;
  void* reserved_ = MAP_FAILED;
  uintptr_t data_ = 0;
  bool is_moved_ = false;
};

}  // namespace

absl::Status CopyPages(std::span<const ConstTensorView> views, const PrefetchProgress& progress) {
  const std::vector<PageRange> ranges = PageRangesOf(views);
  int64_t total = 0;
  for (const PageRange& range : ranges) total += static_cast<int64_t>(range.size());
  int64_t done = 0;
  for (const PageRange& range : ranges) {
    Replacement replacement(range);
    if (!replacement.is_valid()) return NoMemory(range.size());
    for (size_t at = 0; at < range.size(); at += kStepBytes) {
      const size_t step = std::min(kStepBytes, range.size() - at);
      void* from = reinterpret_cast<void*>(range.begin + at);
      const ConstTensorView pages(from, DType::kI32, {static_cast<int64_t>(step / 4)});
      M1_RETURN_IF_ERROR(PrefetchPages({&pages, 1}, nullptr));
      std::memcpy(static_cast<std::byte*>(replacement.data()) + at, from, step);
      madvise(from, step, MADV_DONTNEED);  // the page cache keeps it; this process need not
      done += static_cast<int64_t>(step);
      if (progress && !progress(done, total)) return absl::CancelledError("loading was stopped");
    }
    M1_RETURN_IF_ERROR(replacement.MoveIntoPlace());
  }
  return absl::OkStatus();
}

}  // namespace m1
