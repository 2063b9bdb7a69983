// A regular file of a checkpoint directory, open for reading. The directory is what the operator
// named; names inside it may come from an index file, so they are hostile.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

// Owns the descriptor. Thread-safe once open.
class InputFile {
 public:
  // `name` is a plain file name. A symbolic link must lead to a file of the same directory, or to
  // the `blobs` folder of a Hugging Face cache (DIR/../../blobs), whose snapshots are links.
  // Errors: NotFound; DataLoss (directory, pipe, link that leads elsewhere, unreadable).
  static absl::StatusOr<InputFile> Open(const std::string& directory, const std::string& name);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_; }

  // No read after this.
  void Close();
  // The same file once more, also after Close. Errors: those of Open; DataLoss when its length is
  // another by now, or another file has its name.
  absl::StatusOr<InputFile> Reopen() const;
  // Fills `out` from `offset`. Errors: DataLoss (end of file, I/O error).
  absl::Status ReadAt(int64_t offset, std::span<std::byte> out) const;

 private:
  InputFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_;
  std::string path_;  // directory/name, for messages
  int64_t size_bytes_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// The whole of a small file. Errors: those of Open, and DataLoss when it is longer than
// `max_bytes`.
absl::StatusOr<std::string> ReadInputFile(const std::string& directory, const std::string& name,
                                          int64_t max_bytes);

}  // namespace m1
