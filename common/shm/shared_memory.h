// Anonymous memory that two processes share: a memfd, sealed against resizing, so that touching it
// never faults whatever the other process does, and gone with the last process that holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace m1 {

// An open file descriptor. Move-only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd();
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Mapped for reading and writing. Move-only. What lies in it may change at any time: copy, then
// check the copy.
class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;

  // Zeros; a page takes memory once it is touched. Errors: Unavailable naming what the system said.
  static absl::StatusOr<SharedMemory> Create(int64_t num_bytes);
  // Memory that a peer created. Errors: InvalidArgument when it is not a memfd of `num_bytes` that
  // is sealed against resizing (the peer could otherwise cut it and so crash us).
  static absl::StatusOr<SharedMemory> Open(UniqueFd fd, int64_t num_bytes);

  int fd() const { return fd_.get(); }
  std::byte* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  static absl::StatusOr<SharedMemory> Map(UniqueFd fd, int64_t num_bytes);

  UniqueFd fd_;
  std::byte* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace m1
