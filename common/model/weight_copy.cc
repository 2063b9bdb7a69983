#include "common/model/weight_copy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr uintptr_t kLargePageBytes = uintptr_t{2} << 20;
constexpr uintptr_t kPieceBytes = uintptr_t{8} << 20;  // whole large pages

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

// A piece of a file, and the replacement it belongs to.
struct Piece {
  size_t replacement = 0;
  uintptr_t begin = 0;  // the address that the file is mapped at
  size_t size = 0;
};

// Borders of pieces are borders of large pages, so that no two threads fill one.
void AddPieces(const PageRange& range, size_t replacement, std::vector<Piece>* pieces) {
  for (uintptr_t at = range.begin; at < range.end;) {
    const uintptr_t end = std::min(range.end, (at / kPieceBytes + 1) * kPieceBytes);
    pieces->push_back({replacement, at, end - at});
    at = end;
  }
}

// Reads the part of a file that is mapped at `address`. The last page may reach beyond the file's
// end; the rest of it stays zero, as in a mapping.
absl::Status ReadPiece(const SafetensorsFile& mapped, const InputFile& file, uintptr_t address,
                       std::span<std::byte> out, bool drop_cache) {
  const auto offset = static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(mapped.mapping()));
  const auto size = std::min<int64_t>(static_cast<int64_t>(out.size()), file.size_bytes() - offset);
  posix_fadvise(file.fd(), offset, size, POSIX_FADV_WILLNEED);  // all of it at once, not in order
  M1_RETURN_IF_ERROR(file.ReadAt(offset, out.first(static_cast<size_t>(size))));
  if (drop_cache) posix_fadvise(file.fd(), offset, size, POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

absl::Status CopyFile(const SafetensorsFile& mapped, std::span<const PageRange> ranges,
                      bool drop_cache, ParallelLoad* job) {
  M1_ASSIGN_OR_RETURN(const InputFile file, mapped.file().Reopen());
  std::deque<Replacement> replacements;  // neither copied nor moved
  std::vector<Piece> pieces;
  for (const PageRange& range : ranges) {
    AddPieces(range, replacements.size(), &pieces);
    replacements.emplace_back(range);
    if (!replacements.back().is_valid()) return NoMemory(range.size());
  }
  const auto load = [&](size_t i) -> absl::StatusOr<int64_t> {
    const Piece& piece = pieces[i];
    const PageRange& range = ranges[piece.replacement];
    auto* data = static_cast<std::byte*>(replacements[piece.replacement].data());
    M1_RETURN_IF_ERROR(ReadPiece(mapped, file, piece.begin,
                                 {data + (piece.begin - range.begin), piece.size}, drop_cache));
    return static_cast<int64_t>(piece.size);
  };
  M1_RETURN_IF_ERROR(job->Run(pieces.size(), load));
  for (Replacement& replacement : replacements) M1_RETURN_IF_ERROR(replacement.MoveIntoPlace());
  return absl::OkStatus();
}

}  // namespace

std::vector<FileViews> GroupByFile(const TensorTable& table,
                                   std::span<const ConstTensorView> views) {
  std::map<const SafetensorsFile*, std::vector<ConstTensorView>> grouped;
  for (const ConstTensorView& view : views) {
    if (view.num_bytes() > 0) grouped[table.FileAt(view.data())].push_back(view);
  }
  std::vector<FileViews> files;
  for (auto& [file, file_views] : grouped) {
    M1_CHECK_MSG(file != nullptr, "a view of no file");
    files.push_back({file, std::move(file_views)});
  }
  return files;
}

absl::Status CopyPages(std::span<const FileViews> files, bool drop_cache,
                       const PrefetchProgress& progress) {
  std::vector<std::vector<PageRange>> ranges;
  int64_t total = 0;
  for (const FileViews& file : files) {
    ranges.push_back(PageRangesOf(file.views));
    for (const PageRange& range : ranges.back()) total += static_cast<int64_t>(range.size());
  }
  ParallelLoad job(total, progress);
  for (size_t i = 0; i < files.size(); ++i) {
    M1_RETURN_IF_ERROR(CopyFile(*files[i].file, ranges[i], drop_cache, &job));
  }
  return absl::OkStatus();
}

}  // namespace m1
