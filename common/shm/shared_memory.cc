#include "common/shm/shared_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

absl::Status SystemError(absl::string_view call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(num_bytes_));
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::move(other.fd_)),
      data_(std::exchange(other.data_, nullptr)),
      num_bytes_(std::exchange(other.num_bytes_, 0)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

absl::StatusOr<SharedMemory> SharedMemory::Map(UniqueFd fd, int64_t num_bytes) {
  void* data = mmap(nullptr, static_cast<size_t>(num_bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                    fd.get(), 0);
  if (data == MAP_FAILED) return SystemError("mmap of shared memory");
  SharedMemory memory;
  memory.fd_ = std::move(fd);
  memory.data_ = static_cast<std::byte*>(data);
  memory.num_bytes_ = num_bytes;
  return memory;
}

absl::StatusOr<SharedMemory> SharedMemory::Create(int64_t num_bytes) {
  UniqueFd fd(memfd_create("m1-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return SystemError("memfd_create");
  if (ftruncate(fd.get(), num_bytes) != 0) return SystemError("ftruncate of a memfd");
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0) return SystemError("F_ADD_SEALS");
  return Map(std::move(fd), num_bytes);
}

absl::StatusOr<SharedMemory> SharedMemory::Open(UniqueFd fd, int64_t num_bytes) {
  struct stat status = {};
  struct statfs file_system = {};
  if (fstat(fd.get(), &status) != 0 || fstatfs(fd.get(), &file_system) != 0) {
    return SystemError("fstat of shared memory");
  }
  // A memfd of huge pages may fault for want of them.
  if (!S_ISREG(status.st_mode) || file_system.f_type != TMPFS_MAGIC) {
    return absl::InvalidArgumentError("what the peer shares is not a memfd");
  }
  if (status.st_size != num_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory of ", int64_t{status.st_size}, " bytes, want ", num_bytes));
  }
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError("shared memory is not sealed against resizing");
  }
  return Map(std::move(fd), num_bytes);
}

}  // namespace m1
